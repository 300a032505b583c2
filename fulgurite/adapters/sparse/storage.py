"""A sparse adapter on disk: δ per tensor, and positions (int32 where they fit) or only the seed that draws them again.

``adapter.json`` lists per parameter name its shape and number of trained scalars, the eligible scalars, and a hash of all
positions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from fulgurite.adapters.sparse.adapter import SparseAdapter

__all__ = ["check", "check_model", "describe", "saved_positions", "tensors"]


def describe(adapter: SparseAdapter) -> dict[str, Any]:
    """What ``adapter.json`` says about the tensors."""
    shapes = {
        f"{name}.{key}" if name else key: [list(branch.shapes[key]), len(index)]
        for name, branch in adapter.branches.items()
        for key, index in branch.index.items()
    }
    return {"tensors": shapes, "eligible": adapter.eligible, "positions": _hash(adapter)}


def tensors(adapter: SparseAdapter) -> dict[str, torch.Tensor]:
    """``<parameter>.delta`` float32 and, where positions are stored, ``<parameter>.index``."""
    result: dict[str, torch.Tensor] = {}
    for name, branch in adapter.branches.items():
        for key, index in branch.index.items():
            full = f"{name}.{key}" if name else key
            result[f"{full}.delta"] = branch.delta(key).detach()
            if branch.stores_positions:
                fits = int(index[-1]) < 2**31
                result[f"{full}.index"] = index.to(torch.int32) if fits else index
    return result


def check_model(model: nn.Module, description: dict[str, Any], folder: Path) -> None:
    """Raise a ValueError if a tensor of the description is missing in the model or has another shape there."""
    shapes = {key: list(p.shape) for key, p in model.named_parameters()}
    differing = [(key, shape) for key, (shape, _) in description["tensors"].items() if shapes.get(key) != shape]
    if differing:
        key, shape = differing[0]
        here = f"the shape {shapes[key]}" if key in shapes else "no such parameter"
        raise ValueError(
            f"load_adapter: {folder} was made for another model than this {type(model).__name__}; {len(differing)} of its "
            f"{len(description['tensors'])} tensors differ, the first is {key!r}: saved {shape}, here {here}. Load it onto the "
            "base that it was trained on."
        )


def check(adapter: SparseAdapter, description: dict[str, Any], folder: Path) -> None:
    """Raise a ValueError if the values were trained at other positions than the adapter's."""
    if "tensors" not in description:
        raise ValueError(
            f"load_adapter: {folder} holds no APET adapter; load_adapter(model, folder) attaches what it holds."
        )
    check_model(adapter.model, description, folder)
    if description["positions"] != _hash(adapter):
        raise ValueError(
            f"load_adapter: {folder} was trained at other positions than this adapter's ({description['eligible']:,} eligible "
            f"scalars there, {adapter.eligible:,} here): another model, or budget, selection, seed, targets or mask was changed. "
            "Load it onto the base that it was trained on."
        )


def saved_positions(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The positions in ``adapter.safetensors``, by parameter name, or None if only the seed was stored."""
    found = {key[: -len(".index")]: value.to(torch.int64) for key, value in tensors.items() if key.endswith(".index")}
    return found or None


def _hash(adapter: SparseAdapter) -> str:
    combined = 0
    for branch in adapter.branches.values():
        combined ^= branch.fingerprint()
    return f"{combined:016x}"
