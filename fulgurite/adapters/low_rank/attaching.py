"""Puts low-rank branches beside linear layers and stacked experts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from fulgurite.adapters.config import LoRA, SoRA
from fulgurite.adapters.layers.experts import ExpertsBranch
from fulgurite.adapters.layers.layer import features, put_branch
from fulgurite.adapters.layers.low_rank_branch import Clock, LowRankBranch
from fulgurite.adapters.layers.stacks import Stack, expert_stacks, prove_experts, unknown_stacks
from fulgurite.adapters.layers.targets import find_targets, match_modules, tell_unreached
from fulgurite.adapters.low_rank.adapter import LowRankAdapter
from fulgurite.adapters.methods import Choice, Method, Place, Put, largest_size
from fulgurite.adapters.patterns import Pattern

__all__ = ["LoRAMethod", "LowRankMethod"]


class LowRankMethod(Method[LoRA | SoRA]):
    """How LoRA and SoRA are attached."""

    whole_because = None

    def plan(self, model: nn.Module, config: LoRA | SoRA, train: tuple[str, ...], choice: Choice) -> Put:
        """See :meth:`fulgurite.adapters.methods.Method.plan`.

        Raises:
            ValueError: no layer matches, the rank is above a layer's size, or experts match that cannot carry a branch.
        """
        found, stacks = _chosen(model, config.targets, train)
        sides = {name: features(layer) for name, layer in found.items()}
        sides |= {name: (stack.in_features, stack.out_features) for name, stack in stacks.items()}
        too_small = [f"{name} ({k}x{n})" for name, (k, n) in sides.items() if config.rank > min(k, n)]
        if too_small:
            raise ValueError(
                f"attach: rank={config.rank} is larger than {too_small[0]}; the rank may be at most the smaller side of every "
                f"adapted layer ({len(too_small)} of {len(sides)} are too small). Lower the rank, or leave them out by targets=."
            )
        if config.targets == "all-linear":
            tell_unreached(model, found.values(), train)
        prove_experts(stacks)
        return partial(_put, config, found, stacks)


class LoRAMethod(LowRankMethod):
    """LoRA's rank can also be chosen by a budget; SoRA's cannot, because its ranks die while it trains."""

    def sized(self, model: nn.Module, config: Any, budget: int, train: tuple[str, ...]) -> Any:
        """The largest rank within the budget. α grows with it, so that the branch's scale α/r stays what it was."""
        found, stacks = _chosen(model, config.targets, train)
        sides = [(*features(layer), 1) for layer in found.values()]
        sides += [(stack.in_features, stack.out_features, stack.experts) for stack in stacks.values()]
        most = min(min(k, n) for k, n, _ in sides)
        rank = largest_size(config, model, budget, each=sum((k + n) * times for k, n, times in sides), most=most)
        return replace(config, rank=rank, alpha=config.alpha / config.rank * rank)


def _chosen(model: nn.Module, targets: str, train: tuple[str, ...]) -> tuple[dict[str, nn.Module], dict[str, Stack]]:
    """The linear layers to adapt, and the Parameters in which experts are stacked, by name; "all-linear" means layers only."""
    if targets == "all-linear":
        return find_targets(model, targets, train), {}
    pattern, trained = Pattern(targets, "attach: targets"), tuple(f"{name}." for name in match_modules(model, train))
    for name, kind in unknown_stacks(model).items():
        if pattern.matches(name) and not name.startswith(trained):
            raise ValueError(
                f"attach: targets={targets!r} matches {name}, in which {kind} keeps the weights of its experts in a form that "
                "cannot carry low-rank branches; leave it out of the regex."
            )
    stacks = {name: stack for name, stack in expert_stacks(model).items() if not name.startswith(trained)}
    found = find_targets(model, targets, train, others=stacks)
    return found, {name: stack for name, stack in stacks.items() if pattern.matches(name)}


def _put(config: LoRA | SoRA, found: dict[str, nn.Module], stacks: dict[str, Stack], place: Place) -> LowRankAdapter:
    clock = Clock()
    gate = config.gate_init if isinstance(config, SoRA) else None

    def branch(k: int, n: int, layer: nn.Module, experts: int | None = None) -> LowRankBranch:
        device = next(layer.parameters()).device
        return LowRankBranch(k, n, config.rank, config.alpha, config.dropout, gate, clock, device, experts)

    branches: dict[str, nn.Module] = {name: branch(*features(layer), layer) for name, layer in found.items()}
    layers = dict(found)
    for stack in stacks.values():
        layers[stack.layer] = stack.module
        here = branches.setdefault(stack.layer, ExpertsBranch())
        assert isinstance(here, ExpertsBranch)
        here[stack.key] = branch(stack.in_features, stack.out_features, stack.module, stack.experts)
    names = [name for name, _ in place.model.named_modules() if name in layers]
    for name in names:
        put_branch(layers[name], place.name, branches[name], place.site)
    return LowRankAdapter(place.model, place.name, config, names, place.heads, place.train, clock)
