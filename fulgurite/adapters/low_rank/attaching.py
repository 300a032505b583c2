"""Puts low-rank branches beside linear layers and checks in the first forward that every adapted layer ran."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.config import LoRA, SoRA
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layers.layer import features, put_branch
from fulgurite.adapters.layers.low_rank_branch import Clock, LowRankBranch
from fulgurite.adapters.layers.site import Site
from fulgurite.adapters.layers.targets import find_targets
from fulgurite.adapters.low_rank.adapter import LowRankAdapter

__all__ = ["FirstForward", "keep_fast_path_away", "low_rank_targets", "put_low_rank"]


def low_rank_targets(model: nn.Module, config: LoRA | SoRA, train: tuple[str, ...]) -> dict[str, nn.Module]:
    found = find_targets(model, config.targets, train)
    too_small = [
        f"{n} ({k}x{m})" for n, layer in found.items() for k, m in [features(layer)] if config.rank > min(k, m)
    ]
    if too_small:
        raise ValueError(
            f"attach: rank={config.rank} is larger than {too_small[0]}; the rank may be at most the smaller side of every "
            f"adapted layer ({len(too_small)} of {len(found)} are too small). Lower the rank, or leave them out by targets=."
        )
    return found


def put_low_rank(
    model: nn.Module,
    config: LoRA | SoRA,
    name: str,
    site: Site,
    found: dict[str, nn.Module],
    heads: list[str],
    train: tuple[str, ...],
) -> LowRankAdapter:
    clock = Clock()
    for layer in found.values():
        k, n = features(layer)
        put_branch(layer, name, LowRankBranch(k, n, config, clock, _device(layer)), site)
    return LowRankAdapter(model, name, config, list(found), heads, train, clock)


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


def keep_fast_path_away(model: nn.Module, names: list[str]) -> None:
    """nn.TransformerEncoderLayer's inference path reads weights without calling its layers, unless one of them has a hook."""
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer) and not model.get_submodule(name)._forward_pre_hooks:
            model.get_submodule(name).register_forward_pre_hook(_no_op)


def _no_op(module: nn.Module, args: Any) -> None:
    return None


class FirstForward:
    """Hooks that watch the first forward of an adapted model and then remove themselves. A class, so that models pickle."""

    def __init__(self, adapter: Adapter) -> None:
        self.seen: set[str] = set()
        self.names = adapter.layer_names
        self.handles: list[Any] = [
            layer.register_forward_pre_hook(partial(self.note, name)) for name, layer in adapter.layers.items()
        ]
        self.handles.append(adapter.model.register_forward_hook(self.judge))

    def note(self, name: str, module: nn.Module, args: Any) -> None:
        self.seen.add(name)

    def judge(self, module: nn.Module, args: Any, output: Any) -> None:
        for handle in self.handles:
            handle.remove()
        missed = [name for name in self.names if name not in self.seen]
        if missed:
            raise RuntimeError(
                f"attach: {len(missed)} adapted layers were not called in the first forward, the first is {missed[0]!r}: their "
                "module reads the weight without calling the layer, so the adapter has no effect there. Leave them out by "
                "targets=, or give check_forward=False if it is right that they did not run."
            )
