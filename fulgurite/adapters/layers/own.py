"""What a module holds of its own, without what adapters put into its layers."""

from __future__ import annotations

import torch
from torch import nn

from fulgurite.adapters.layers.layer import AdaptedLayer
from fulgurite.adapters.layers.packed import packed_keys

__all__ = ["frozen_keys", "inserted_modules", "own_parameters", "own_state"]


def inserted_modules(model: nn.Module) -> set[int]:
    """The id() of every module that adapters put into the layers of ``model``: nothing that another adapter may go to."""
    layers = (layer for layer in model.modules() if isinstance(layer, AdaptedLayer))
    return {id(module) for layer in layers for module in layer.branches.modules()}


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The Parameters of a module by name, each once, without those of adapters."""
    inserted = inserted_modules(module)
    theirs = {id(p) for part in module.modules() if id(part) in inserted for p in part.parameters()}
    return {name: p for name, p in module.named_parameters() if id(p) not in theirs}


def own_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The state dict of a module without the keys of adapters."""
    layers = [name for name, layer in module.named_modules() if isinstance(layer, AdaptedLayer)]
    prefixes = tuple(f"{name}.branches." if name else "branches." for name in layers)
    return {key: value for key, value in module.state_dict().items() if not key.startswith(prefixes)}


def frozen_keys(model: nn.Module) -> set[str]:
    """Keys of ``model.state_dict()`` of parameters that are not trained, and of what belongs to packed ones (their scales)."""
    frozen = {key for key, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return frozen | set(packed_keys(model))
