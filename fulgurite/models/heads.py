"""The output head of a language model as plain tensors, so that a loss can be computed without the logits.

For most models logits = W h + b, with h the decoder's last hidden state. Some models also scale or cap the logits:

    logits = cap(scale · (W h + b)),   cap(z) = softcap · tanh(z / softcap)

Granite divides by `logits_scaling`, Cohere multiplies by `logit_scale`, T5 with tied embeddings multiplies h by
d_model^-1/2 (it has no bias, so that the order does not matter), BART adds `final_logits_bias`, Gemma 2 caps. Whether this
file knows everything that a model does to its logits is proved on the model itself, by :func:`prove_head`.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters.layers.layer import AdaptedLayer
from fulgurite.adapters.layers.low_rank_branch import LowRankBranch
from fulgurite.kernels.output_head import HeadBranch, OutputHead, options_of
from fulgurite.models.modes import evaluation_mode

__all__ = [
    "HeadBranch",
    "OutputHead",
    "evaluating",
    "find_decoder",
    "head_options",
    "output_head",
    "prove_head",
    "rounding",
    "usable_head",
]

_T5_FAMILY = ("t5", "mt5", "umt5", "longt5", "switch_transformers")
_PROOF_TOKENS = 4


class _EncoderDecoder(nn.Module):
    """Encoder and decoder of a model that has no module for both (T5). A view: it owns no parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Not as submodules: whoever stores this view must not find every parameter twice.
        self.__dict__["_parts"] = (model.encoder, model.decoder)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool = False,
    ) -> Any:
        """The decoder's output."""
        encoder, decoder = self.__dict__["_parts"]
        encoded = encoder(input_ids=input_ids, attention_mask=attention_mask, inputs_embeds=inputs_embeds)
        return decoder(
            input_ids=decoder_input_ids,
            attention_mask=decoder_attention_mask,
            encoder_hidden_states=encoded.last_hidden_state,
            encoder_attention_mask=attention_mask,
            use_cache=use_cache,
        )


def find_decoder(model: nn.Module) -> nn.Module:
    """The part of a language model whose output's ``last_hidden_state`` goes into the head.

    It takes the model's own inputs but labels; of an encoder-decoder it takes both sides' ids. For T5, which has no module
    for its two sides together, a view of both is made at each call: do not store it in a module.

    Args:
        model: a transformers model with a language-modelling head.

    Raises:
        ValueError: no such part.
    """
    prefix = getattr(model, "base_model_prefix", "")
    base = getattr(model, prefix, None) if prefix else None
    if isinstance(base, nn.Module):
        return base
    if all(isinstance(getattr(model, side, None), nn.Module) for side in ("encoder", "decoder")):
        return _EncoderDecoder(model)
    raise ValueError(
        f"find_decoder: {type(model).__name__} has no {prefix or 'base model'!r} and no encoder and decoder; a transformers "
        "model with a language-modelling head is needed. Take its logits instead."
    )


def output_head(model: nn.Module) -> OutputHead | None:
    """The head's tensors as they stand now (adapters active now, dropout as in the head's mode); ask at each forward.

    Args:
        model: a transformers model with a language-modelling head.

    Returns:
        None where the head is not a plain linear layer of the hidden state, where hooks watch it (those of `attach` do so
        until the model's first forward), or where more than one branch is active in it; take the model's logits then.
    """
    embeddings = getattr(model, "get_output_embeddings", None)
    head = embeddings() if embeddings is not None else None
    if not isinstance(head, nn.Module) or _watched(head):
        return None
    if (head.base_class if isinstance(head, AdaptedLayer) else type(head)) is not nn.Linear:
        return None
    branches = _active_branches(head) if isinstance(head, AdaptedLayer) else []
    if len(branches) > 1:
        return None
    linear = cast(nn.Linear, head)
    bias: torch.Tensor | None = linear.bias
    extra = getattr(model, "final_logits_bias", None)
    if isinstance(extra, torch.Tensor):
        bias = extra.flatten() if bias is None else bias + extra.flatten()
    branch = branches[0] if branches else None
    lora = None
    if branch is not None:
        lora = HeadBranch(*branch.factors(), branch.scaling, branch.dropout if head.training else 0.0)
    config: Any = model.config
    softcap = getattr(config, "final_logit_softcapping", None)
    return OutputHead(linear.weight, bias, _logit_scale(config), None if softcap is None else float(softcap), lora)


def prove_head(model: nn.Module) -> bool:
    """Whether the tensors of :func:`output_head` give the model's own log-probabilities, on four tokens, without gradient.

    The tolerance is 1e-4 plus four roundings of the largest logit in the model's dtype; autocast is off. The modules' modes
    and the random state are left as they were.

    Args:
        model: a transformers model with a language-modelling head.
    """
    config: Any = getattr(model, "config", None)
    if not hasattr(model, "get_output_embeddings") or model.get_output_embeddings() is None:  # type: ignore[operator]
        return False
    generator = torch.Generator().manual_seed(0)
    vocabulary = getattr(config.get_text_config(), "vocab_size", 2)
    ids = torch.randint(vocabulary, (1, _PROOF_TOKENS), generator=generator, device="cpu")
    inputs = {"input_ids": ids.to(next(model.parameters()).device)}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)
    with torch.no_grad(), evaluating(model):
        # First: hooks that watch an adapter's first forward leave with it, and a head with hooks is not taken.
        expected = model(**inputs).logits.double()
        head = output_head(model)
        if head is None:
            return False
        found = _logits(head, find_decoder(model)(**inputs).last_hidden_state)
    tolerance = 1e-4 + 4 * rounding(head.weight) * float(expected.abs().max())
    error = (found.log_softmax(-1) - expected.log_softmax(-1)).abs().max()
    return bool(error <= tolerance)


def usable_head(model: nn.Module, proved: MutableMapping[nn.Module, bool]) -> OutputHead | None:
    """The head's tensors if a loss may be computed from them now; None where the model's own logits have to be taken.

    Args:
        model: a transformers model with a language-modelling head.
        proved: what :func:`prove_head` said of each model; filled in at a model's first call. A weak dictionary does not
            keep models alive.
    """
    head = output_head(model)
    # A sharded head is flat or in pieces: its owner has to gather it. Dropout on the head's adapter is the layer's affair.
    if head is None or head.weight.dim() != 2 or type(head.weight) not in (torch.Tensor, nn.Parameter):
        return None
    if head.lora is not None and head.lora.dropout > 0.0:
        return None
    if model not in proved:
        proved[model] = prove_head(model)
    return head if proved[model] else None


def head_options(head: OutputHead) -> dict[str, Any]:
    """The head as keyword arguments of :func:`fulgurite.kernels.linear_log_probs` and its kin (all but the weight)."""
    return options_of(head)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within the block every module is in evaluation mode and autocast is off; afterwards each is in its own mode again."""
    with evaluation_mode(model), torch.autocast(next(model.parameters()).device.type, enabled=False):
        yield


def rounding(weight: torch.Tensor) -> float:
    """Relative rounding of products with this weight: its dtype's, or TF32's where float32 products on a GPU use it."""
    epsilon = float(torch.finfo(weight.dtype).eps)
    # Not torch.backends.cuda.matmul.allow_tf32: reading it raises once somebody has set the newer fp32_precision.
    tf32 = weight.device.type == "cuda" and torch.get_float32_matmul_precision() != "highest"
    return max(epsilon, 2.0**-10) if tf32 else epsilon


def _logits(head: OutputHead, hidden: torch.Tensor) -> torch.Tensor:
    """The docstring's equation in float64."""
    hidden = hidden.double()
    logits = F.linear(hidden, head.weight.double(), None if head.bias is None else head.bias.double())
    if head.lora is not None:
        low = hidden @ head.lora.lora_a.double().t()
        low = low if head.lora.gate is None else low * head.lora.gate.double()
        logits = logits + head.lora.scaling * (low @ head.lora.lora_b.double().t())
    logits = logits * head.logit_scale
    return logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)


def _logit_scale(config: Any) -> float:
    """The factor of the logits, by architecture: one attribute means a divisor here and a factor there."""
    kind = getattr(config, "model_type", "")
    if kind.startswith("granite"):
        return 1.0 / float(getattr(config, "logits_scaling", 1.0))
    if kind.startswith("cohere"):
        return float(getattr(config, "logit_scale", None) or 1.0)
    if kind.startswith("hyperclovax"):
        return float(getattr(config, "logits_scaling", 1.0))
    if kind == "falcon_h1":
        return float(getattr(config, "lm_head_multiplier", 1.0))
    # transformers 5 says so in the configuration, older versions go by the tied embeddings.
    if getattr(config, "scale_decoder_outputs", kind in _T5_FAMILY and config.tie_word_embeddings):
        return float(config.d_model) ** -0.5
    return 1.0


def _active_branches(head: AdaptedLayer) -> list[LowRankBranch]:
    names = [name for name in head.site.active if name in head.branches and name not in head.merged]
    branches = [head.branches[name] for name in names]
    return [branch for branch in branches if isinstance(branch, LowRankBranch)]  # sparse ones are in the weight


def _watched(head: nn.Module) -> bool:
    """Somebody counts on the head's forward being called."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return "forward" in head.__dict__ or any(getattr(head, name) for name in hooks)
