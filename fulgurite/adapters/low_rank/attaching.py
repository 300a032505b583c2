"""Puts low-rank branches beside linear layers, and checks in the first forward that every adapted layer ran."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from fulgurite.adapters.config import LoRA, SoRA
from fulgurite.adapters.layers.layer import features, put_branch
from fulgurite.adapters.layers.low_rank_branch import Clock, LowRankBranch
from fulgurite.adapters.layers.targets import find_targets, tell_unreached
from fulgurite.adapters.low_rank.adapter import LowRankAdapter
from fulgurite.adapters.methods import Choice, Method, Place, Put, largest_size

__all__ = ["LoRAMethod", "LowRankMethod"]


class LowRankMethod(Method[LoRA | SoRA]):
    """How LoRA and SoRA are attached."""

    whole_because = None

    def plan(self, model: nn.Module, config: LoRA | SoRA, train: tuple[str, ...], choice: Choice) -> Put:
        """See :meth:`fulgurite.adapters.methods.Method.plan`.

        Raises:
            ValueError: no layer matches, or the rank is above a layer's size.
        """
        found = find_targets(model, config.targets, train)
        too_small = [
            f"{n} ({k}x{m})" for n, layer in found.items() for k, m in [features(layer)] if config.rank > min(k, m)
        ]
        if too_small:
            raise ValueError(
                f"attach: rank={config.rank} is larger than {too_small[0]}; the rank may be at most the smaller side of every "
                f"adapted layer ({len(too_small)} of {len(found)} are too small). Lower the rank, or leave them out by targets=."
            )
        if config.targets == "all-linear":
            tell_unreached(model, found.values(), train)
        return partial(_put, config, found)


class LoRAMethod(LowRankMethod):
    """LoRA's rank can also be chosen by a budget; SoRA's cannot, because its ranks die while it trains."""

    def sized(self, model: nn.Module, config: Any, budget: int, train: tuple[str, ...]) -> Any:
        """The largest rank within the budget. α grows with it, so that the branch's scale α/r stays what it was."""
        sides = [features(layer) for layer in find_targets(model, config.targets, train).values()]
        most = min(min(pair) for pair in sides)
        rank = largest_size(config, model, budget, each=sum(k + n for k, n in sides), most=most)
        return replace(config, rank=rank, alpha=config.alpha / config.rank * rank)


def _put(config: LoRA | SoRA, found: dict[str, nn.Module], place: Place) -> LowRankAdapter:
    clock = Clock()
    gate = config.gate_init if isinstance(config, SoRA) else None
    branches = []
    for layer in found.values():
        k, n = features(layer)
        device = next(layer.parameters()).device
        branches.append(LowRankBranch(k, n, config.rank, config.alpha, config.dropout, gate, clock, device))
    for layer, branch in zip(found.values(), branches, strict=True):
        put_branch(layer, place.name, branch, place.site)
    return LowRankAdapter(place.model, place.name, config, list(found), place.heads, place.train, clock)
