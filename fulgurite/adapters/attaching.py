"""attach(model, SoRA(...)): put an adapter's branches into a model, freeze the rest, and see to it that state dicts still load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.config import AdapterConfig
from fulgurite.adapters.handle import Adapter, adapters_of
from fulgurite.adapters.layers.layer import AdaptedLayer, release, take_branch
from fulgurite.adapters.layers.packed import packed_keys
from fulgurite.adapters.layers.site import Site, site_of
from fulgurite.adapters.layers.targets import match_modules
from fulgurite.adapters.methods import Choice, Place, method_of

__all__ = ["attach", "find_adapters"]

_MERGED = "fulgurite_merged"  # of a state dict: the adapters that were merged when it was taken


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
        config: ``LoRA(...)``, ``SoRA(...)``, ``APET(...)``, a baseline (``BitFit()``, ``Bottleneck()``, ``SoftPrompt()``), or the
            configuration of a method that was registered (:mod:`fulgurite.adapters.methods`).
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
            does not fit, a sharded parameter; adapters on a part of the model, or on a module around it.
    """
    if isinstance(train, str):
        raise ValueError(
            f"attach: train={train!r} is one text, of which each letter would be a pattern; give ({train!r},)."
        )
    site = site_of(model) or Site()
    if not isinstance(name, str) or not name or "." in name or hasattr(nn.ModuleDict(), name):
        raise ValueError(
            f"attach: name={name!r}; it must be a word without dots that is no attribute of nn.ModuleDict, because the keys of the "
            "state dict contain it. Give another name=."
        )
    if name in site.adapters:
        raise ValueError(f"attach: an adapter named {name!r} is attached already; detach it, or give another name=.")
    for layer in model.modules():
        if isinstance(layer, AdaptedLayer) and layer.site is not site:
            raise ValueError(
                f"attach: a part of {type(model).__name__} carries adapters already ({', '.join(map(repr, layer.site.adapters))}), "
                "which are attached to another module; attach to the same module, or detach them first."
            )
    method = method_of(config)
    choice = Choice(positions, scores)
    if not method.takes_choice and choice != Choice():
        raise ValueError(
            f"attach: positions= and scores= were given; they choose the scalars that APET trains, and {type(config).__name__} "
            "chooses no scalars. Leave both out."
        )
    heads = match_modules(model, tuple(train))
    put = method.plan(model, config, tuple(train), choice)
    flags = [(p, p.requires_grad) for p in model.parameters()]
    if not site.adapters:
        site.open(model)
    try:
        adapter = put(Place(model, name, site, list(heads), tuple(train)))
        for head in heads.values():
            head.requires_grad_(True)
        site.adapters[name] = adapter
        site.active = (*site.active, name)
        adapter.on_attached(check_forward)
    except BaseException:  # out of memory, say: a model that stays frozen would train nothing, without a word
        _undo(model, site, name)
        for p, flag in flags:
            p.requires_grad_(flag)
        raise
    if len(site.adapters) == 1:
        site.load_hooks = [
            model.register_state_dict_post_hook(_after_saving),
            model.register_load_state_dict_pre_hook(_before_loading),
            model.register_load_state_dict_post_hook(_after_loading),
        ]
    return adapter


def find_adapters(module: nn.Module) -> list[Adapter]:
    """Every adapter attached to ``module`` or to a module inside it, in order."""
    return [adapter for child in module.modules() for adapter in adapters_of(child)]


def _undo(model: nn.Module, site: Site, name: str) -> None:
    """Take off what an attachment that failed had put in by then."""
    adapter = site.adapters.pop(name, None)
    for hook in adapter.hooks if isinstance(adapter, Adapter) else ():
        hook.remove()
    site.active = tuple(n for n in site.active if n != name)
    for layer in list(model.modules()):
        if isinstance(layer, AdaptedLayer):
            if name in layer.branches:
                take_branch(layer, name)
            else:
                release(layer)
    if not site.adapters:
        site.close(model)


def _after_saving(model: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """A state dict says which adapters its weights are merged with."""
    if names := _merged(model):
        metadata[_MERGED] = names


def _merged(model: nn.Module) -> list[str]:
    """The adapters that stand beside the weights and are merged into them, by name."""
    return [adapter.name for adapter in adapters_of(model) if adapter.merged and not adapter.live_layers]


def _check_merged(model: nn.Module, state_dict: dict[str, Any], prefix: str, saved: list[str]) -> None:
    """Merged weights with the branch beside them count the update twice; weights from before a merge lose it."""
    own = _merged(model)
    for adapter in adapters_of(model):
        if (adapter.name in saved) == (adapter.name in own):
            continue
        # A branch bears the name of its layer, or of the Parameter in which experts are stacked.
        weights = any(f"{prefix}{name}{end}" in state_dict for name in adapter.branches for end in ("", ".weight"))
        branches = any(f"branches.{adapter.name}." in key for key in state_dict if key.startswith(prefix))
        if adapter.name in saved and weights:
            raise RuntimeError(
                f"load_state_dict: the weights were saved while adapter {adapter.name!r} was merged into them, and here it is not "
                "merged: its update would count twice. Save the state after unmerge(), or merge() the adapter here first."
            )
        if adapter.name in own and (weights or branches):
            raise RuntimeError(
                f"load_state_dict: adapter {adapter.name!r} is merged into the weights here, and it was not when the state was "
                "saved: what is loaded would not be computed with. Call its unmerge() first."
            )


def _before_loading(
    model: nn.Module, state_dict: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any
) -> None:
    """Adapter checkpoints leave the frozen base out; with this they load strictly, and a missing adapter key still raises."""
    _check_merged(model, state_dict, prefix, metadata.get(_MERGED, []))
    for adapter in adapters_of(model):
        adapter.before_loading(state_dict, prefix)
    for key, weight in packed_keys(model).items():
        if prefix + weight not in state_dict:
            state_dict.pop(prefix + key, None)  # checkpoints of earlier versions hold the scales without the weights
    for key, p in model.named_parameters(remove_duplicate=False):
        if not p.requires_grad:
            state_dict.setdefault(prefix + key, p.detach())


def _after_loading(model: nn.Module, incompatible_keys: Any) -> None:
    """δ has come back: write it into the weights."""
    for adapter in adapters_of(model):
        adapter.sync()
