"""Folding adapters into the base weights, and getting the base back bit for bit.

W + ΔW − ΔW is not W in floating point (PEFT's unmerge drifts in bf16), so undoing restores a kept copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fulgurite.adapters.layers.layer import AdaptedLayer, weight_is_transposed
from fulgurite.adapters.layers.sparse_branch import SparseBranch

if TYPE_CHECKING:
    from fulgurite.adapters.low_rank.adapter import LowRankAdapter

__all__ = ["merge", "unmerge"]


@torch.no_grad()
def merge(adapter: LowRankAdapter, reversible: bool) -> int:
    """See :meth:`fulgurite.adapters.Adapter.merge`."""
    layers, branches = adapter.layers, adapter.branches
    owners: dict[int, int] = {}
    for module in adapter.model.modules():
        for p in module._parameters.values():
            owners[id(p)] = owners.get(id(p), 0) + 1
    for name, layer in layers.items():
        if adapter.name in layer.merged:
            raise RuntimeError(f"merge: adapter {adapter.name!r} is merged already; call unmerge() first.")
        _refuse_sparse("merge", name, layer)
        weight = layer.weight
        if not weight.dtype.is_floating_point:
            raise RuntimeError(
                f"merge: the weight of {name} is quantised ({weight.dtype}); load the base in full precision and merge there."
            )
        if owners[id(weight)] > 1:
            raise RuntimeError(
                f"merge: the weight of {name} is tied to another module, which merging would change too."
            )
    kept = 0
    for name, layer in layers.items():
        weight = layer.weight
        copy = weight.detach().clone() if reversible else None
        kept += 0 if copy is None else copy.numel() * copy.element_size()
        delta = branches[name].delta()
        delta = delta.t() if weight_is_transposed(layer) else delta
        weight.data.copy_(weight.to(delta.dtype) + delta)
        layer.merged[adapter.name] = copy
    return kept


@torch.no_grad()
def unmerge(adapter: LowRankAdapter) -> None:
    """See :meth:`fulgurite.adapters.Adapter.unmerge`."""
    layers = adapter.layers
    for name, layer in layers.items():
        if adapter.name not in layer.merged:
            raise RuntimeError(f"unmerge: adapter {adapter.name!r} is not merged (at {name}).")
        if layer.merged[adapter.name] is None:
            raise RuntimeError(
                f"unmerge: adapter {adapter.name!r} was merged without reversible=True: no copy of the base "
                "was kept. Load the base again."
            )
        _refuse_sparse("unmerge", name, layer)
        if list(layer.merged)[-1] != adapter.name:
            raise RuntimeError(
                f"unmerge: {list(layer.merged)[-1]!r} was merged after {adapter.name!r}; unmerge that one first."
            )
    for layer in layers.values():
        copy = layer.merged.pop(adapter.name)
        assert copy is not None
        layer.weight.data.copy_(copy)


def _refuse_sparse(call: str, name: str, layer: AdaptedLayer) -> None:
    if any(isinstance(branch, SparseBranch) for branch in layer.branches.values()):
        raise RuntimeError(
            f"{call}: single scalars of {name} are trained by an APET adapter, which keeps their base values; detach that first."
        )
