"""An APET adapter as stock PEFT has it: SHiRA (arXiv 2406.13175), whose layers hold their trained scalars as one COO matrix each.

SHiRA has one number r for all layers and wants exactly r·(K + N) positions in each. r is the smallest that holds the fullest layer;
the other layers are filled up with positions that hold a zero. PEFT refuses r·(K + N) > K·N, and takes the weights of linear layers
only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from fulgurite.adapters.layers.layer import AdaptedLayer, features
from fulgurite.adapters.layers.sparse_branch import SparseBranch

__all__ = ["misfits", "shira_layout"]

Layers = Mapping[str, AdaptedLayer]
Branches = Mapping[str, SparseBranch]  # of one adapter, by layer name


def shira_layout(
    layers: Layers, branches: Branches, tied: Sequence[AdaptedLayer]
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """The tensors of PEFT's SHiRA per layer, and what its configuration says of them.

    Args:
        layers: those with trained scalars, by name.
        branches: the adapter's branch of each.
        tied: layers whose tensor is tied to one of ``layers``.

    Raises:
        ValueError: scalars that SHiRA has no place for, named.
    """
    _refuse_others(branches, misfits(layers, branches, tied))
    rank = _common_rank(layers, branches)
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    for name, branch in branches.items():
        rows, columns = branch.shapes["weight"]
        index, delta = _filled(branch.index["weight"].cpu(), branch.delta("weight").detach().cpu(), rank, rows, columns)
        places = torch.stack([index // columns, index % columns]).to(torch.int32)
        tensors[name] = {"shira_weight": delta, "shira_indices": places}
    config = {
        "peft_type": "SHIRA",
        "r": rank,
        "mask_type": "random",
        "fan_in_fan_out": False,
        "init_weights": True,
    }
    return tensors, config


def misfits(layers: Layers, branches: Branches, tied: Sequence[AdaptedLayer]) -> list[tuple[str, str]]:
    """(layer, attribute) of the tensors that SHiRA has no place for; arguments as in :func:`shira_layout`."""
    shared = {owner for layer in tied for owner, _ in layer.tied.values()}
    return [
        (name, key)
        for name, layer in layers.items()
        for key in branches[name].index
        if key != "weight" or layer.fused_as != "linear" or layer in shared
    ]


def _refuse_others(branches: Branches, others: list[tuple[str, str]]) -> None:
    if others:
        total = sum(len(branches[name].index[key]) for name, key in others)
        name, key = others[0]
        raise ValueError(
            f"export_shira: {total:,} trained scalars in {len(others)} tensors do not lie in the weight of a linear layer of its "
            f"own, the first in {name}.{key}; PEFT's SHiRA has no place for them. Export merged weights, or train with "
            "APET(targets='all-linear')."
        )


def _common_rank(layers: Layers, branches: Branches) -> int:
    needed = {}
    for name, layer in layers.items():
        k, n = features(layer)
        needed[name] = -(-len(branches[name].index["weight"]) // (k + n))
    rank = max(needed.values())
    for name, layer in layers.items():
        k, n = features(layer)
        if rank * (k + n) > k * n:
            fullest = max(needed, key=lambda key: needed[key])
            raise ValueError(
                f"export_shira: SHiRA has one r for all layers, r·(K + N) positions in each; {fullest} needs r={rank}, but {name} "
                f"({k}x{n}) holds at most r={k * n // (k + n)}. Export merged weights, or train fewer scalars."
            )
    return rank


def _filled(
    index: torch.Tensor, delta: torch.Tensor, rank: int, rows: int, columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Positions and values, with zeros at further positions up to r·(K + N) of them; sorted."""
    missing = rank * (rows + columns) - len(index)
    free = torch.ones(rows * columns, dtype=torch.bool)
    free[index] = False
    index = torch.cat([index, free.nonzero().squeeze(1)[:missing]])
    order = index.argsort()
    return index[order], torch.cat([delta, delta.new_zeros(missing)]).to(torch.float32)[order]
