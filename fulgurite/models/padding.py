"""Padded rows in transformers' classifiers: a row's logits are those of the row alone, whatever batch it stands in.

A causal classifier reads the last token whose id is not ``config.pad_token_id``; it does not look at the attention mask. Where the
tokenizer pads with another token, a short row is read at a padded position; where the configuration names no padding token, batches
are refused. Therefore the configuration names the tokenizer's padding token (and so does an exported folder), and masked
positions hold the token that the configuration names.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["keep_padding_apart", "name_padding", "padding_named"]

_BY_PADDING = ("ctrl", "modernbert-decoder")  # causal classifiers whose head is not called `score`


def keep_padding_apart(model: nn.Module) -> None:
    """Let a classifier put its own padding token into masked positions before each forward.

    Args:
        model: of transformers, with a sequence-classification head.
    """
    model.register_forward_pre_hook(_fill, with_kwargs=True)


def name_padding(model: nn.Module, pad_token_id: int | None) -> None:
    """Write the tokenizer's padding token into the configuration of a classifier that reads by it; other models stay as they are.

    Args:
        model: of transformers.
        pad_token_id: of the tokenizer; None changes nothing.
    """
    if pad_token_id is not None and _reads_by_padding(model):
        _configuration(model).pad_token_id = pad_token_id


def padding_named(model: nn.Module) -> int | None:
    """The padding token by which a causal classifier finds the end of a row; None for other models.

    Args:
        model: of transformers.
    """
    return getattr(_configuration(model), "pad_token_id", None) if _reads_by_padding(model) else None


def _reads_by_padding(model: nn.Module) -> bool:
    config: Any = getattr(model, "config", None)
    if config is None or "SequenceClassification" not in type(model).__name__:
        return False
    return isinstance(getattr(model, "score", None), nn.Linear) or config.model_type in _BY_PADDING


def _configuration(model: nn.Module) -> Any:
    config: Any = model.config
    return config.get_text_config()


def _fill(model: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
    """Hook before the forward."""
    ids = args[0] if args else kwargs.get("input_ids")
    mask = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    if not isinstance(ids, torch.Tensor) or ids.dim() != 2:
        return None
    pad = _usable_padding(model)
    if pad is None or not isinstance(mask, torch.Tensor) or mask.shape != ids.shape:
        return None
    filled = ids.masked_fill(mask == 0, pad)
    return ((filled, *args[1:]), kwargs) if args else (args, {**kwargs, "input_ids": filled})


def _usable_padding(model: nn.Module) -> int | None:
    """The configuration's padding token, if the embedding has a row for it; where a causal classifier has none, its end token."""
    config: Any = _configuration(model)
    rows = int(model.get_input_embeddings().weight.shape[0])  # type: ignore[operator]
    pad = getattr(config, "pad_token_id", None)
    if isinstance(pad, int) and 0 <= pad < rows:
        return pad
    if not _reads_by_padding(model):
        return None
    ends = getattr(config, "eos_token_id", None)
    end = ends[0] if isinstance(ends, (list, tuple)) and ends else ends
    config.pad_token_id = end if isinstance(end, int) and 0 <= end < rows else 0
    return int(config.pad_token_id)
