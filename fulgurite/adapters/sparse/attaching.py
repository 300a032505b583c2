"""Which scalars an APET configuration trains in a given model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext

import torch
from torch import nn

from fulgurite.adapters.config import APET
from fulgurite.adapters.sparse.eligible import Eligible, find_eligible
from fulgurite.adapters.sparse.selection import select

__all__ = ["SELECTED_BY_VALUES", "plan_sparse"]

# Selections that only the same data, file or weights (in the same dtype) would give again: their positions are stored.
SELECTED_BY_VALUES = ("gradient", "magnitude", "mask")


def plan_sparse(
    model: nn.Module,
    config: APET,
    train: tuple[str, ...],
    positions: Mapping[str, torch.Tensor] | None,
    scores: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]] | None,
) -> tuple[list[Eligible], dict[str, torch.Tensor]]:
    site = model.__dict__.get("_fulgurite_site")
    with site.using(()) if site is not None else nullcontext():
        eligible = find_eligible(model, config.targets, train)
        return eligible, select(model, config, eligible, positions, scores)
