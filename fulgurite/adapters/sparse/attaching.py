"""Chooses the scalars that an APET configuration trains in a given model, and puts δ at their positions."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.config import APET
from fulgurite.adapters.layers.site import site_of
from fulgurite.adapters.layers.targets import tell_unreached
from fulgurite.adapters.methods import Choice, Method, Place, Put
from fulgurite.adapters.sparse.adapter import SparseAdapter
from fulgurite.adapters.sparse.eligible import Eligible, find_eligible
from fulgurite.adapters.sparse.selection import select
from fulgurite.adapters.sparse.storage import check_model, saved_positions
from fulgurite.adapters.storage import read_tensors

__all__ = ["SparseMethod", "plan_sparse"]

# Selections that only the same data, file or weights (in the same dtype) would give again: their positions are stored.
_SELECTED_BY_VALUES = ("gradient", "magnitude", "mask")


class SparseMethod(Method[APET]):
    """How APET is attached."""

    takes_choice = True
    whole_because = "it writes its scalars into whole weights, at positions of those"

    def plan(self, model: nn.Module, config: APET, train: tuple[str, ...], choice: Choice) -> Put:
        """See :func:`plan_sparse`."""
        return plan_sparse(model, config, train, choice)

    def sized(self, model: nn.Module, config: APET, budget: int, train: tuple[str, ...]) -> APET:
        """The same selection with this budget; whether it is above the eligible scalars, ``attach`` tells."""
        return replace(config, budget=budget)

    def restore(self, model: nn.Module, description: dict[str, Any], folder: Path) -> Choice:
        """The positions that were saved, if they were; with those drawn from a seed the same seed gives them again.

        Raises:
            FileNotFoundError, ValueError: missing or damaged files; a model without these tensors.
        """
        check_model(model, description, folder)
        return Choice(positions=saved_positions(read_tensors(folder)))


def plan_sparse(model: nn.Module, config: APET, train: tuple[str, ...], choice: Choice) -> Put:
    """Choose the scalars, and give back the function that puts δ there.

    Args:
        model: the base, perhaps with other adapters on it, which are switched off while its values are looked at.
        config: what to choose.
        train: regexes of the modules that are trained fully and therefore not eligible.
        choice: positions or scores by hand.

    Raises:
        ValueError: a budget of 0 or above the eligible scalars, a mask that does not fit, a quantised or sharded parameter.
    """
    site = site_of(model)
    with site.using(()) if site is not None else nullcontext():
        eligible = find_eligible(model, config.targets, train)
        chosen = select(model, config, eligible, choice.positions, choice.scores)
    if config.targets == "all-linear":
        tell_unreached(model, [model.get_submodule(tensor.layer) for tensor in eligible], train)
    by_hand = choice.positions is not None
    stores = by_hand or config.storage == "indices" or config.selection in _SELECTED_BY_VALUES
    return partial(_put, config, eligible, chosen, stores)


def _put(
    config: APET, eligible: list[Eligible], chosen: dict[str, torch.Tensor], stores_positions: bool, place: Place
) -> SparseAdapter:
    return SparseAdapter(
        place.model, place.name, config, eligible, place.heads, place.train, stores_positions, first=chosen
    )
