"""The repeated layers of a causal language model, found by structure: the list of as many modules as its configuration has layers.

`model.layers` of Llama, Qwen2, Mistral and Gemma, `model.decoder.layers` of OPT, `transformer.h` of GPT-2 and BLOOM,
`gpt_neox.layers` of GPT-NeoX: nothing here knows these names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

from fulgurite.models.heads import evaluating

__all__ = ["Layers", "find_layers", "logits_of_probe"]

_PROBE = 6  # tokens


class Layers(NamedTuple):
    """The repeated layers.

    Attributes:
        name: qualified name of their list.
        modules: in order.
    """

    name: str
    modules: nn.ModuleList


def find_layers(model: nn.Module) -> Layers:
    """The repeated layers of a causal language model.

    Args:
        model: of transformers.

    Raises:
        ValueError: an encoder-decoder or encoder; no list of layers, or several; layers that share parameters.
    """
    config: Any = getattr(model, "config", None)
    kind = type(model).__name__
    if config is None or getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"find_layers: {kind} is not a decoder of transformers; give a causal language model")
    count = int(getattr(config.get_text_config(), "num_hidden_layers", 0) or 0)
    lists = {name: module for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    outer = {name: found for name, found in lists.items() if not any(name.startswith(f"{other}.") for other in lists)}
    fitting = {name: found for name, found in outer.items() if len(found) == count}
    if count < 2 or len(fitting) != 1:
        seen = ", ".join(f"{name} of {len(found)}" for name, found in outer.items()) or "none"
        raise ValueError(
            f"find_layers: the layers of {kind} cannot be found: its configuration has num_hidden_layers={count}, and its lists of "
            f"modules are: {seen}; needed is one list of that many modules, at least 2; give another model"
        )
    ((name, modules),) = fitting.items()
    owner: dict[int, int] = {}
    for number, layer in enumerate(modules):
        for parameter in layer.parameters():
            if owner.setdefault(id(parameter), number) != number:
                raise ValueError(
                    f"find_layers: the layers {owner[id(parameter)]} and {number} of {kind} share parameters, so that they cannot "
                    "be kept or trained apart; give a model whose layers have weights of their own"
                )
    if not _is_causal(model):
        raise ValueError(
            f"find_layers: in {kind} a later token changes what is computed for earlier ones: it is an encoder, which predicts no "
            "next token; give a causal language model"
        )
    return Layers(name, modules)


@torch.no_grad()
def logits_of_probe(model: nn.Module, last: int = 0) -> torch.Tensor:
    """Logits of six fixed tokens, (1, 6, V), in evaluation mode and without a cache; the modules' modes are left as they were.

    Args:
        model: a causal language model of transformers.
        last: added to the last token, to see what depends on it.
    """
    config: Any = model.config
    vocabulary = int(config.get_text_config().vocab_size)
    ids = torch.arange(1, _PROBE + 1) * 7919
    ids[-1] += last
    ids = (ids % vocabulary)[None].to(next(model.parameters()).device)
    with evaluating(model):
        logits: torch.Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits


def _is_causal(model: nn.Module) -> bool:
    """Whether the logits before the last token stay what they are when that token changes."""
    first, second = (logits_of_probe(model, last)[:, :-1].float() for last in (0, 1))
    if not bool(first.isfinite().all()):
        return True  # whoever computes with it says what is wrong
    return bool((first - second).abs().max() <= 1e-3 * first.abs().max())
