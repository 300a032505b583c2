"""An APET adapter as stock PEFT has it: SHiRA (arXiv 2406.13175), trained scalars of linear layers' weights as one COO matrix each.

SHiRA has one number r for all layers and wants exactly r·(K + N) positions in each. r is the smallest that holds the fullest layer;
what a layer has less is filled up with positions that hold a zero. PEFT refuses r·(K + N) > K·N, and has no other tensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fulgurite.adapters.layers.layer import features
from fulgurite.adapters.peft_folder import target_names, write_folder

if TYPE_CHECKING:
    from fulgurite.adapters.sparse.adapter import SparseAdapter

__all__ = ["export", "misfits"]


def export(adapter: SparseAdapter, folder: Path, base_model: str | None, task_type: str | None) -> None:
    """See :meth:`fulgurite.adapters.sparse.adapter.SparseAdapter.export_shira`.

    Raises:
        ValueError: scalars that SHiRA has no place for, named.
    """
    _refuse_others(adapter)
    rank = _common_rank(adapter)
    tensors: dict[str, torch.Tensor] = {}
    for name, branch in adapter.branches.items():
        rows, columns = branch.shapes["weight"]
        index, delta = _filled(branch.index["weight"].cpu(), branch.delta("weight").detach().cpu(), rank, rows, columns)
        tensors[f"base_model.model.{name}.shira_weight"] = delta
        tensors[f"base_model.model.{name}.shira_indices"] = torch.stack([index // columns, index % columns]).to(
            torch.int32
        )
    config: dict[str, Any] = {
        "peft_type": "SHIRA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "mask_type": "random",
        "random_seed": adapter.config.seed,
        "fan_in_fan_out": False,
        "init_weights": True,
        "target_modules": target_names(adapter, adapter.layer_names),
        "modules_to_save": sorted(adapter.head_names) or None,
    }
    write_folder(adapter, folder, tensors, config)


def misfits(adapter: SparseAdapter) -> list[tuple[str, str]]:
    """(layer, attribute) of the tensors that SHiRA has no place for."""
    tied = {owner for layer in adapter.tied_layers for owner, _ in layer.tied.values()}
    return [
        (name, key)
        for name, layer in adapter.layers.items()
        for key in adapter.branches[name].index
        if key != "weight" or layer.fused_as != "linear" or layer in tied
    ]


def _refuse_others(adapter: SparseAdapter) -> None:
    others = misfits(adapter)
    if others:
        total = sum(len(adapter.branches[name].index[key]) for name, key in others)
        name, key = others[0]
        raise ValueError(
            f"export_shira: {total:,} trained scalars in {len(others)} tensors do not lie in the weight of a linear layer of its "
            f"own, the first in {name}.{key}; PEFT's SHiRA has no place for them. Export merged weights, or train with "
            "APET(targets='all-linear')."
        )


def _common_rank(adapter: SparseAdapter) -> int:
    needed = {}
    for name, layer in adapter.layers.items():
        k, n = features(layer)
        needed[name] = -(-len(adapter.branches[name].index["weight"]) // (k + n))
    rank = max(needed.values())
    for name, layer in adapter.layers.items():
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
