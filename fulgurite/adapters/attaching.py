"""attach(model, SoRA(...)): put branches beside layers, freeze the rest, and make sure that the layers really run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.baselines import BitFit, Bottleneck, SoftPrompt, bitfit_as_apet
from fulgurite.adapters.branch import Clock, LowRankBranch
from fulgurite.adapters.config import APET, AdapterConfig, LoRA, SoRA
from fulgurite.adapters.eligible import Eligible, find_eligible
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.inserted import inserted_layers, put_inserted
from fulgurite.adapters.layer import features, put_branch
from fulgurite.adapters.low_rank import LowRankAdapter
from fulgurite.adapters.selection import select
from fulgurite.adapters.site import Site
from fulgurite.adapters.sparse import SparseAdapter
from fulgurite.adapters.sparse_loading import read_base
from fulgurite.adapters.targets import find_targets, match_modules

__all__ = ["attach", "find_adapters"]

# Selections that only the same data, file or weights (in the same dtype) would give again: their positions are stored.
_BY_VALUES = ("gradient", "magnitude", "mask")


def attach(
    model: nn.Module,
    config: AdapterConfig,
    *,
    train: tuple[str, ...] | list[str] = (),
    name: str = "default",
    check_forward: bool = True,
    positions: Mapping[str, torch.Tensor] | None = None,
    scores: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]] | None = None,
) -> Adapter:
    """Put an adapter into ``model`` and freeze everything else.

    Args:
        model: any module; its base keys, Parameters and hooks stay as they are.
        config: ``LoRA(...)``, ``SoRA(...)``, ``APET(...)``, or a baseline: ``BitFit()``, ``Bottleneck()``, ``SoftPrompt()``.
        train: regexes (whole qualified names) of modules that are trained fully, such as a new head; saved with the adapter.
        name: several adapters may be attached under different names; all are active unless told otherwise.
        check_forward: after the first forward, raise if an adapted layer was never called. Switch it off for models that
            rightly skip layers (experts without tokens). APET, which lies in the weights, does not need it.
        positions: for APET, the trained scalars by hand: per parameter name a bool mask of its shape, or flat int64 positions.
        scores: for APET's "gradient": what :func:`fisher_scores` gives, or a score per parameter name.

    Returns:
        The handle.

    Raises:
        ValueError: a name that is taken, targets that match nothing or bypass their forward, a rank above a layer's size, a
            tied or quantised layer that cannot carry the adapter; for APET a budget of 0 or above what is eligible, a mask that
            does not fit, a sharded parameter.
    """
    site: Site = model.__dict__.get("_fulgurite_site") or Site()
    if name in site.adapters:
        raise ValueError(f"attach: an adapter named {name!r} is attached already; detach it, or give another name=.")
    if isinstance(config, BitFit):
        config = bitfit_as_apet(model, config, tuple(train))
    if not isinstance(config, (LoRA, SoRA, APET, Bottleneck, SoftPrompt)):
        raise ValueError(
            f"attach: config is {type(config).__name__}; allowed are LoRA, SoRA, APET, BitFit, Bottleneck and SoftPrompt."
        )
    if not isinstance(config, APET) and (positions is not None or scores is not None):
        raise ValueError(f"attach: positions= and scores= are APET's; {type(config).__name__} has none.")
    heads = match_modules(model, tuple(train))
    if isinstance(config, APET):
        plan = _plan_sparse(model, config, tuple(train), positions, scores)
    elif isinstance(config, (Bottleneck, SoftPrompt)):
        layers = inserted_layers(model, config, tuple(train))
    else:
        found = _low_rank_targets(model, config, tuple(train))
    if not site.adapters:
        site.required_grad = {key: p.requires_grad for key, p in model.named_parameters()}
        for p in model.parameters():
            p.requires_grad_(False)
    model.__dict__["_fulgurite_site"] = site
    adapter: Adapter
    if isinstance(config, APET):
        eligible, chosen = plan
        stores = positions is not None or config.storage == "indices" or config.selection in _BY_VALUES
        adapter = SparseAdapter(model, name, config, eligible, list(heads), tuple(train), stores)
    elif isinstance(config, (Bottleneck, SoftPrompt)):
        adapter = put_inserted(model, config, name, site, layers, list(heads), tuple(train))
    else:
        adapter = _put_low_rank(model, config, name, site, found, list(heads), tuple(train))
    for head in heads.values():
        head.requires_grad_(True)
    site.adapters[name] = adapter
    site.active = (*site.active, name)
    if isinstance(adapter, SparseAdapter):
        adapter.place(chosen)
    if len(site.adapters) == 1:
        site.load_hooks = [
            model.register_load_state_dict_pre_hook(_before_loading),
            model.register_load_state_dict_post_hook(_after_loading),
        ]
    if isinstance(adapter, LowRankAdapter):
        _keep_fast_path_away(model, adapter.layer_names)
        if check_forward:
            _FirstForward(adapter)
    return adapter


def _low_rank_targets(model: nn.Module, config: LoRA | SoRA, train: tuple[str, ...]) -> dict[str, nn.Module]:
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


def _put_low_rank(
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


def _plan_sparse(
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


def _before_loading(model: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Adapter checkpoints leave the frozen base out; with this they load strictly, and a missing adapter key still raises."""
    for adapter in model.__dict__["_fulgurite_site"].adapters.values():
        if isinstance(adapter, SparseAdapter):
            adapter.look()
            adapter.prepare_load(state_dict, prefix)
            adapter.look()  # positions that came with the checkpoint begin with a look of their own
            read_base(adapter, state_dict, prefix)
    for key, p in model.named_parameters(remove_duplicate=False):
        if not p.requires_grad:
            state_dict.setdefault(prefix + key, p.detach())


def _after_loading(model: nn.Module, incompatible_keys: Any) -> None:
    """δ has come back: write it into the weights."""
    for adapter in model.__dict__["_fulgurite_site"].adapters.values():
        adapter.sync()


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
