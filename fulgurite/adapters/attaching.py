"""attach(model, SoRA(...)): put branches beside layers, freeze the rest, and make sure that the layers really run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.branch import Clock, LowRankBranch
from fulgurite.adapters.config import AdapterConfig, LoRA, SoRA
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layer import Site, features, put_branch
from fulgurite.adapters.targets import find_targets, match_modules

__all__ = ["attach", "find_adapters"]


def attach(
    model: nn.Module,
    config: AdapterConfig,
    *,
    train: tuple[str, ...] | list[str] = (),
    name: str = "default",
    check_forward: bool = True,
) -> Adapter:
    """Put an adapter into ``model`` and freeze everything else.

    Args:
        model: any module; its base keys, Parameters and hooks stay as they are.
        config: ``LoRA(...)`` or ``SoRA(...)``.
        train: regexes (whole qualified names) of modules that are trained fully, such as a new head; saved with the adapter.
        name: several adapters may be attached under different names; all are active unless told otherwise.
        check_forward: after the first forward, raise if an adapted layer was never called. Switch it off for models that
            rightly skip layers (experts without tokens).

    Returns:
        The handle.

    Raises:
        ValueError: a name that is taken, targets that match nothing or bypass their forward, a rank above a layer's size, a
            tied or quantised layer that cannot carry the adapter.
    """
    site: Site = model.__dict__.get("_fulgurite_site") or Site()
    if name in site.adapters:
        raise ValueError(f"attach: an adapter named {name!r} is attached already; detach it, or give another name=.")
    if not isinstance(config, (LoRA, SoRA)):
        raise ValueError(f"attach: config is {type(config).__name__}; allowed are LoRA and SoRA.")
    found = find_targets(model, config.targets, tuple(train))
    too_small = [
        f"{n} ({k}x{m})" for n, layer in found.items() for k, m in [features(layer)] if config.rank > min(k, m)
    ]
    if too_small:
        raise ValueError(
            f"attach: rank={config.rank} is larger than {too_small[0]}; the rank may be at most the smaller side of every "
            f"adapted layer ({len(too_small)} of {len(found)} are too small). Lower the rank, or leave them out by targets=."
        )
    heads = match_modules(model, tuple(train))
    if not site.adapters:
        site.required_grad = {key: p.requires_grad for key, p in model.named_parameters()}
        for p in model.parameters():
            p.requires_grad_(False)
    model.__dict__["_fulgurite_site"] = site
    clock = Clock()
    for layer in found.values():
        k, n = features(layer)
        put_branch(layer, name, LowRankBranch(k, n, config, clock, _device(layer)), site)
    for head in heads.values():
        head.requires_grad_(True)
    adapter = Adapter(model, name, config, list(found), list(heads), tuple(train), clock)
    site.adapters[name] = adapter
    site.active = (*site.active, name)
    _keep_fast_path_away(model, list(found))
    if len(site.adapters) == 1:
        site.load_hook = model.register_load_state_dict_pre_hook(_fill_in_base)
    if check_forward:
        _FirstForward(adapter)
    return adapter


def find_adapters(module: nn.Module) -> list[Adapter]:
    """Every adapter attached to ``module`` or to a module inside it, in order."""
    found: list[Adapter] = []
    for child in module.modules():
        site = child.__dict__.get("_fulgurite_site")
        if site is not None:
            found += site.adapters.values()
    return found


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


def _keep_fast_path_away(model: nn.Module, names: list[str]) -> None:
    """nn.TransformerEncoderLayer's inference path reads weights without calling its layers, unless one of them has a hook."""
    for name in names:
        parent = model.get_submodule(name.rpartition(".")[0])
        if isinstance(parent, nn.TransformerEncoderLayer) and not model.get_submodule(name)._forward_pre_hooks:
            model.get_submodule(name).register_forward_pre_hook(_no_op)


def _fill_in_base(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Adapter checkpoints leave the frozen base out; with this they load strictly, and a missing adapter key still raises."""
    for key, p in model.named_parameters(remove_duplicate=False):
        if not p.requires_grad:
            state_dict.setdefault(prefix + key, p.detach())


def _no_op(module: nn.Module, args: Any) -> None:
    return None


class _FirstForward:
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
