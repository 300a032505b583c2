"""Embeddings that grow with their tokenizer: new rows begin as the mean of the old ones, and may be the only ones that are trained.

With every new row at the mean, an untrained new token is neither likelier nor less likely than the vocabulary on average
(Hewitt 2021, https://nlp.stanford.edu/~johnhew/vocab-expansion.html). Nothing is drawn, so that each process grows the same rows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

__all__ = ["grow_embeddings", "train_new_rows_only"]


def grow_embeddings(model: nn.Module, size: int) -> dict[str, int]:
    """Give a model's token embedding, and its output head where that is a matrix of its own, rows for ``size`` tokens.

    Args:
        model: of transformers.
        size: tokens of the tokenizer.

    Returns:
        By name the modules that grew, each with the number of rows that it had.

    Raises:
        ValueError: the model has no token embedding that can be resized.
    """
    whole: Any = model
    if not hasattr(model, "resize_token_embeddings") or not isinstance(
        _weight(whole.get_input_embeddings()), torch.Tensor
    ):
        raise ValueError(
            f"resize_embeddings: {type(model).__name__} has no token embedding that can be resized; leave the option out."
        )
    before = [len(weight) for weight in map(_weight, _modules(whole)) if weight is not None]
    whole.resize_token_embeddings(max(size, *before), mean_resizing=False)
    names = {id(module): name for name, module in model.named_modules()}
    grown: dict[str, int] = {}
    seen: set[int] = set()
    for module, rows in zip(_modules(whole), before, strict=True):
        weight = _weight(module)
        if weight is None or id(weight) in seen or len(weight) == rows:  # a tied head is the embedding
            continue
        seen.add(id(weight))
        grown[names[id(module)]] = rows
        with torch.no_grad():
            weight[rows:] = weight[:rows].float().mean(0).to(weight.dtype)
    return grown


def train_new_rows_only(model: nn.Module, grown: Mapping[str, int]) -> None:
    """Let no gradient reach the old rows. With an optimizer step that leaves a weight without gradient alone they stay bit for bit.

    Args:
        model: that grew.
        grown: of :func:`grow_embeddings`.
    """
    for name, rows in grown.items():
        weight = model.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        flag = weight.requires_grad
        weight.requires_grad_(True).register_hook(functools.partial(_new_rows, rows))
        weight.requires_grad_(flag)


def _new_rows(rows: int, gradient: torch.Tensor) -> torch.Tensor:
    return torch.cat([torch.zeros_like(gradient[:rows]), gradient[rows:]])


def _modules(model: Any) -> list[Any]:
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [module for module in (model.get_input_embeddings(), head) if _weight(module) is not None]


def _weight(module: Any) -> Any:
    return getattr(module, "weight", None)
