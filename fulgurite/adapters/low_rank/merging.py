"""Folding low-rank adapters into the base weights, and getting the base back bit for bit.

W + ΔW − ΔW is not W in floating point (PEFT's unmerge drifts in bf16), so undoing restores a kept copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn

from fulgurite.adapters.layers.experts import ExpertsBranch
from fulgurite.adapters.layers.layer import AdaptedLayer, weight_is_transposed
from fulgurite.adapters.layers.low_rank_branch import LowRankBranch
from fulgurite.adapters.layers.packed import foreign_weight
from fulgurite.adapters.layers.sparse_branch import SparseBranch

__all__ = ["merge", "refusal", "unmerge"]


def refusal(adapter: str, model: nn.Module, layers: Mapping[str, AdaptedLayer]) -> str | None:
    """Why nothing can be merged into these layers, as a sentence; None if it is possible.

    Args:
        adapter: its name.
        model: the adapted model, whose tied weights are looked for.
        layers: the adapted layers by name.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module._parameters.values():
            owners[id(p)] = owners.get(id(p), 0) + 1
    for name, layer in layers.items():
        if sparse := _sparse(name, layer):
            return sparse
        for weight, _ in _weights(adapter, layer):
            if not weight.dtype.is_floating_point or foreign_weight(layer) is not None:
                kind = foreign_weight(layer) or weight.dtype
                return f"the weight of {name} is quantised ({kind}); load the base in full precision and merge there"
            if owners[id(weight)] > 1:
                return f"the weight of {name} is tied to another module, which merging would change too"
    return None


@torch.no_grad()
def merge(
    adapter: str,
    model: nn.Module,
    layers: Mapping[str, AdaptedLayer],
    reversible: bool,
) -> int:
    """W ← W + s·B diag(g) A at every layer; see :meth:`fulgurite.adapters.LowRankAdapter.merge`.

    Args:
        adapter: its name.
        model: the adapted model.
        layers: the adapted layers by name.
        reversible: keep a copy of each weight.

    Returns:
        Bytes that the copies take.
    """
    if any(adapter in layer.merged for layer in layers.values()):
        raise RuntimeError(f"merge: adapter {adapter!r} is merged already; call unmerge() first.")
    if (reason := refusal(adapter, model, layers)) is not None:
        raise RuntimeError(f"merge: {reason}.")
    kept = 0
    for layer in layers.values():
        weights = list(_weights(adapter, layer))
        copy = torch.cat([weight.detach().reshape(-1) for weight, _ in weights]) if reversible else None
        kept += 0 if copy is None else copy.numel() * copy.element_size()
        transposed = _transposed(layer)
        for weight, branch in weights:
            # Expert by expert: all of them in float64 would take eight bytes for each of their weights.
            parts = [(weight.data, None)] if branch.experts is None else [(w, e) for e, w in enumerate(weight.data)]
            for part, expert in parts:
                delta = branch.delta(expert)
                part.copy_(part.to(delta.dtype) + (delta.t() if transposed else delta))
        layer.merged[adapter] = copy
    return kept


@torch.no_grad()
def unmerge(adapter: str, layers: Mapping[str, AdaptedLayer]) -> None:
    """Put the copies that :func:`merge` kept back; see :meth:`fulgurite.adapters.LowRankAdapter.unmerge`.

    Args:
        adapter: its name.
        layers: the adapted layers by name.
    """
    for name, layer in layers.items():
        if adapter not in layer.merged:
            raise RuntimeError(f"unmerge: adapter {adapter!r} is not merged (at {name}).")
        if layer.merged[adapter] is None:
            raise RuntimeError(
                f"unmerge: no copy of the base is left for adapter {adapter!r}: it was merged without reversible=True, or an "
                "adapter that was merged after it has been detached. Load the base again."
            )
        if sparse := _sparse(name, layer):
            raise RuntimeError(f"unmerge: {sparse}.")
        if list(layer.merged)[-1] != adapter:
            raise RuntimeError(
                f"unmerge: {list(layer.merged)[-1]!r} was merged after {adapter!r}; unmerge that one first."
            )
    for layer in layers.values():
        copy = layer.merged.pop(adapter)
        assert copy is not None
        weights = [weight for weight, _ in _weights(adapter, layer)]
        for weight, part in zip(weights, copy.split([weight.numel() for weight in weights]), strict=True):
            weight.data.copy_(part.view(weight.shape))


def _weights(adapter: str, layer: AdaptedLayer) -> Iterator[tuple[nn.Parameter, LowRankBranch]]:
    """The weights of a layer beside which the adapter stands, each with its branch."""
    here = layer.branches[adapter]
    for key, branch in here.items() if isinstance(here, ExpertsBranch) else [("weight", here)]:
        weight = layer._parameters[key]
        assert weight is not None and isinstance(branch, LowRankBranch)
        yield weight, branch


def _transposed(layer: AdaptedLayer) -> bool:
    """Whether the weights are stored (K, N): Conv1D's, and those of some mixtures' experts."""
    stacked = getattr(layer, "is_transposed", None)
    return weight_is_transposed(layer) if stacked is None else bool(stacked)


def _sparse(name: str, layer: AdaptedLayer) -> str | None:
    if any(isinstance(branch, SparseBranch) for branch in layer.branches.values()):
        return (
            f"single scalars of {name} are trained by an APET adapter, which keeps their base values; detach that adapter "
            "first"
        )
    return None
