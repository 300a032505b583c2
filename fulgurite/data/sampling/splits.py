"""Held-out rows: which rows of a training file are kept for validation."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["chosen_records", "held_out", "held_out_indices", "paper_validation_rows"]

_SPLIT_SEED = 42

_PAPER_VALIDATION_ROWS = 1000


def held_out_indices(rows: int, held_out: int) -> tuple[list[int], list[int]]:
    """(held-out rows, the others): the first `held_out` of a permutation under seed 42, then the rest of it."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(_SPLIT_SEED)).tolist()
    return order[:held_out], order[held_out:]


def paper_validation_rows(train_rows: int) -> int:
    """How many rows are taken from a training set of `train_rows`: 1000, or a tenth where that would be too many."""
    return min(_PAPER_VALIDATION_ROWS, max(1, train_rows // 10))


def held_out(keys: Iterable[int] | Tensor, fraction: float) -> Tensor:
    """Which rows validate, (rows,) bool: whole groups of equal keys, in the order of the keys, up to the fraction of rows.

    At least one group validates and at least one does not, if there are two.

    Args:
        keys: a hash of each row's group, below 2⁶³; equal questions have equal keys, so none is in both parts.
        fraction: share of the rows that is to validate.
    """
    keyed = keys if isinstance(keys, Tensor) else torch.tensor(list(keys), dtype=torch.int64)
    groups, inverse, sizes = torch.unique(keyed, return_inverse=True, return_counts=True)
    if len(groups) < 2:
        raise ValueError(
            f"held_out: {len(keyed)} rows that all begin with one question cannot be split into training and validation "
            "rows; give val_path, or set val_fraction to 0"
        )
    wanted = int((sizes.cumsum(0) <= fraction * len(keyed) + 1e-6).sum())
    return inverse < max(1, min(wanted, len(groups) - 1))


def chosen_records(
    groups: Tensor,
    part: str,
    val_fraction: float,
    limit: int | None = None,
    seed: int = 0,
    usable: Tensor | None = None,
) -> Tensor:
    """Which records belong to a part, (records,) bool: whole groups are held out, and a limit takes random records of the part.

    Args:
        groups: a hash of each record's group, (records,) int64.
        part: "all", "train" or "held out".
        val_fraction: share of the records that is held out.
        limit: take that many records at most.
        seed: decides which.
        usable: the records that a limit may take, (records,) bool; None: all.
    """
    keep = torch.ones(len(groups), dtype=torch.bool)
    if part != "all":
        validate = held_out(groups, val_fraction)
        keep = validate if part == "held out" else ~validate
    if limit is not None:
        places = keep.nonzero().squeeze(1)
        places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))]
        if usable is not None:
            places = places[usable[places]]
        keep = torch.zeros_like(keep)
        keep[places[:limit]] = True
    return keep
