"""attach(model, SoRA(...)): put branches beside layers, freeze the rest, and make sure that the layers really run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.config import APET, AdapterConfig, BitFit, Bottleneck, LoRA, SoftPrompt, SoRA
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.inserted.adapter import inserted_layers, put_inserted
from fulgurite.adapters.layers.site import Site
from fulgurite.adapters.layers.targets import match_modules
from fulgurite.adapters.low_rank.adapter import LowRankAdapter
from fulgurite.adapters.low_rank.attaching import FirstForward, keep_fast_path_away, low_rank_targets, put_low_rank
from fulgurite.adapters.sparse.adapter import SparseAdapter
from fulgurite.adapters.sparse.attaching import SELECTED_BY_VALUES, plan_sparse
from fulgurite.adapters.sparse.bitfit import bitfit_as_apet
from fulgurite.adapters.sparse.loading import read_base

__all__ = ["attach", "find_adapters"]


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
        plan = plan_sparse(model, config, tuple(train), positions, scores)
    elif isinstance(config, (Bottleneck, SoftPrompt)):
        layers = inserted_layers(model, config, tuple(train))
    else:
        found = low_rank_targets(model, config, tuple(train))
    if not site.adapters:
        site.required_grad = {key: p.requires_grad for key, p in model.named_parameters()}
        for p in model.parameters():
            p.requires_grad_(False)
    model.__dict__["_fulgurite_site"] = site
    adapter: Adapter
    if isinstance(config, APET):
        eligible, chosen = plan
        stores = positions is not None or config.storage == "indices" or config.selection in SELECTED_BY_VALUES
        adapter = SparseAdapter(model, name, config, eligible, list(heads), tuple(train), stores)
    elif isinstance(config, (Bottleneck, SoftPrompt)):
        adapter = put_inserted(model, config, name, site, layers, list(heads), tuple(train))
    else:
        adapter = put_low_rank(model, config, name, site, found, list(heads), tuple(train))
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
        keep_fast_path_away(model, adapter.layer_names)
        if check_forward:
            FirstForward(adapter)
    return adapter


def find_adapters(module: nn.Module) -> list[Adapter]:
    """Every adapter attached to ``module`` or to a module inside it, in order."""
    found: list[Adapter] = []
    for child in module.modules():
        site = child.__dict__.get("_fulgurite_site")
        if site is not None:
            found += site.adapters.values()
    return found


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
