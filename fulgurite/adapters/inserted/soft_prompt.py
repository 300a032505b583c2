"""Trained vectors before the embedded input (arXiv 2104.08691), and the masks, positions and outputs that follow from them.

The vectors stand behind the first token of an encoder, so that [CLS] stays the token that is pooled, and at the very front
elsewhere. PEFT's prompt tuning gives the same outputs for a decoder (tested). Of an encoder-decoder only the encoder sees the
vectors; the decoder attends to the real tokens alone.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import nn

from fulgurite.adapters.inserted.places import embedding_of
from fulgurite.adapters.layers.float32 import Float32Module
from fulgurite.adapters.layers.site import Site

__all__ = ["PromptBranch", "host_of", "lay_over", "lengthen", "shorten"]


class PromptBranch(Float32Module):
    """The vectors, (length, H) float32, also when the model is cast.

    Args:
        embedding: the model's input embedding.
        length: number of vectors.
        init: "normal" or "tokens"; see :class:`fulgurite.adapters.SoftPrompt`.
        at: number of tokens that stay in front of them.

    Attributes:
        inserting: whether the model is in a call whose ids were lengthened by dummy tokens.
    """

    def __init__(self, embedding: nn.Embedding, length: int, init: str, at: int) -> None:
        super().__init__()
        weight = embedding.weight
        if init == "tokens":
            vectors = weight.detach()[torch.randint(weight.shape[0], (length,), device=weight.device)].float()
        else:
            vectors = 0.1 * torch.randn(length, weight.shape[1], device=weight.device, dtype=torch.float32)
        self.vectors = nn.Parameter(vectors)
        self.at, self.inserting = at, False

    @property
    def length(self) -> int:
        """Number of vectors."""
        return self.vectors.shape[0]


def host_of(model: nn.Module) -> tuple[nn.Module, int]:
    """The module whose input is lengthened, and the place of the prompt: 1 in an encoder, behind [CLS]; else 0.

    Args:
        model: a transformers model.

    Raises:
        ValueError: it has no input embedding, or takes no token ids.
    """
    embedding_of(model)
    config: Any = getattr(model, "config", None)
    if getattr(config, "is_encoder_decoder", False):
        return cast(Any, model).get_encoder(), 0
    prefix = getattr(model, "base_model_prefix", "")
    host = getattr(model, prefix, model) if prefix else model
    if "input_ids" not in inspect.signature(host.forward).parameters:
        raise ValueError(
            f"SoftPrompt: {type(host).__name__}.forward takes no input_ids; a transformers model is needed."
        )
    embedding = embedding_of(host)
    path = next((name for name, module in host.named_modules() if module is embedding), "")
    # The innermost part that takes ids and their mask: OPT's language model calls its decoder past the model around it.
    for part in path.split(".")[:-1]:
        inner = getattr(host, part)
        if not {"input_ids", "attention_mask"} <= set(inspect.signature(inner.forward).parameters):
            break
        host, path = inner, path.partition(".")[2]
    # Encoders keep their input embedding in a part called `embeddings`; decoders hold it themselves.
    return cast(nn.Module, host), 1 if path.startswith("embeddings.") else 0


def lengthen(branch: PromptBranch, site: Site, name: str, host: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Hook before the base model: puts in dummy tokens for the vectors, and ones for them into the mask.

    Args:
        branch: the vectors.
        site: tells whether the adapter is active.
        name: of the adapter.
        host: the module of :func:`host_of`.
        args: its inputs.
        kwargs: its inputs by name.

    Raises:
        ValueError: a call without ids, a mask of more than two dimensions, or a row and prompt longer than the model's window.
    """
    if name not in site.active:
        return None
    if args:
        parameters = [p for p in inspect.signature(type(host).forward).parameters if p != "self"]
        kwargs = {**dict(zip(parameters, args, strict=False)), **kwargs}
    ids = kwargs.get("input_ids")
    if ids is None:
        raise ValueError("SoftPrompt: the model was called without input_ids; call it with token ids.")
    mask, past = kwargs.get("attention_mask"), _seen(kwargs.get("past_key_values"))
    if mask is not None and mask.dim() != 2:
        raise ValueError(
            "SoftPrompt: packed batches and masks of more than two dimensions are not supported; give padded batches."
        )
    count, at = branch.length, branch.at
    if mask is None:
        mask = ids.new_ones(ids.shape[0], ids.shape[1] + max(0, past - count))
    kwargs["attention_mask"] = _insert(mask, at, count, 1)
    places = kwargs.get("position_ids")
    kwargs.pop("cache_position", None)
    if past:
        if places is not None:
            kwargs["position_ids"] = places + count
        return (), kwargs
    window = getattr(getattr(host, "config", None), "max_position_embeddings", None)
    if isinstance(window, int) and ids.shape[1] + count > window:
        raise ValueError(
            f"SoftPrompt: {ids.shape[1]} tokens and {count} vectors are more than the {window} positions of "
            f"{type(host).__name__}; shorten the rows or the prompt."
        )
    kwargs["input_ids"] = _insert(ids, at, count, 0)
    if kwargs.get("token_type_ids") is not None:
        kwargs["token_type_ids"] = _insert(kwargs["token_type_ids"], at, count, 0)
    if places is not None:
        front = torch.arange(count, device=places.device).expand(places.shape[0], -1) + at
        kwargs["position_ids"] = torch.cat([places[:, :at], front, places[:, at:] + count], 1)
    branch.inserting = True
    return (), kwargs


def lay_over(branch: PromptBranch, embedding: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Hook behind the embedding: the vectors in place of the dummy tokens' embeddings.

    Args:
        branch: the vectors.
        embedding: the input embedding.
        args: its inputs.
        output: (B, S, H).
    """
    if not branch.inserting:
        return output
    vectors = branch.vectors.to(output.dtype).expand(output.shape[0], -1, -1)
    return torch.cat([output[:, : branch.at], vectors, output[:, branch.at + branch.length :]], 1)


def shorten(branch: PromptBranch, host: nn.Module, args: Any, output: Any) -> Any:
    """Hook behind the base model: the hidden states of the given tokens alone.

    Args:
        branch: the vectors.
        host: the module of :func:`host_of`.
        args: its inputs.
        output: a tuple that begins with the last hidden states, or a transformers output; None if the forward raised.
    """
    if not branch.inserting:
        return output
    branch.inserting = False
    if output is None:  # the forward raised
        return output
    if isinstance(output, tuple):
        return (_cut(branch, output[0]), *output[1:])
    output.last_hidden_state = _cut(branch, output.last_hidden_state)
    if getattr(output, "hidden_states", None) is not None:
        output.hidden_states = tuple(_cut(branch, states) for states in output.hidden_states)
    return output


def _cut(branch: PromptBranch, states: torch.Tensor) -> torch.Tensor:
    return torch.cat([states[:, : branch.at], states[:, branch.at + branch.length :]], 1)


def _insert(tensor: torch.Tensor, at: int, count: int, value: int) -> torch.Tensor:
    middle = tensor.new_full((tensor.shape[0], count), value)
    return torch.cat([tensor[:, :at], middle, tensor[:, at:]], 1)


def _seen(cache: Any) -> int:
    """Tokens that a cache holds."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    return int(cache[0][0].shape[-2]) if len(cache) else 0
