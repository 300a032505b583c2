"""A sparse adapter on disk: δ per tensor, and its positions (int32 where they fit) or only the seed that draws them again.

``adapter.json`` lists per parameter name its shape and number of trained scalars, the number of eligible scalars, and a hash of
all positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.layers.sparse_branch import SparseBranch

__all__ = ["check", "check_model", "describe", "saved_positions", "tensors"]

Branches = Mapping[str, SparseBranch]  # of one adapter, by layer name


def describe(branches: Branches, eligible: int) -> dict[str, Any]:
    """What ``adapter.json`` says about the tensors.

    Args:
        branches: of one adapter, by layer name.
        eligible: number of scalars that the positions were chosen from.
    """
    shapes = {
        f"{name}.{key}" if name else key: [list(branch.shapes[key]), len(index)]
        for name, branch in branches.items()
        for key, index in branch.index.items()
    }
    return {"tensors": shapes, "eligible": eligible, "positions": _hash(branches)}


def tensors(branches: Branches) -> dict[str, torch.Tensor]:
    """``<parameter>.delta`` float32 and, where positions are stored, ``<parameter>.index``."""
    result: dict[str, torch.Tensor] = {}
    for name, branch in branches.items():
        for key, index in branch.index.items():
            full = f"{name}.{key}" if name else key
            result[f"{full}.delta"] = branch.delta(key).detach()
            if branch.stores_positions:
                fits = int(index[-1]) < 2**31
                result[f"{full}.index"] = index.to(torch.int32) if fits else index
    return result


def check_model(model: nn.Module, description: dict[str, Any], folder: Path) -> None:
    """Raise a ValueError if a tensor of the description is missing in the model or has another shape there."""
    tensors, eligible, positions = (description.get(key) for key in ("tensors", "eligible", "positions"))
    if not (
        isinstance(tensors, dict)
        and all(isinstance(entry, list) and len(entry) == 2 for entry in tensors.values())
        and isinstance(eligible, int)
        and isinstance(positions, str)
    ):
        raise ValueError(
            f"load_adapter: adapter.json in {folder} does not describe an APET adapter's tensors; save the adapter again."
        )
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


def check(model: nn.Module, branches: Branches, eligible: int, description: dict[str, Any], folder: Path) -> None:
    """Raise a ValueError if the folder's values were trained at other positions than those of the branches."""
    if "tensors" not in description:
        raise ValueError(
            f"load_adapter: {folder} holds no APET adapter; load_adapter(model, folder) attaches what it holds."
        )
    check_model(model, description, folder)
    if description["positions"] != _hash(branches):
        raise ValueError(
            f"load_adapter: {folder} was trained at other positions than this adapter's ({description['eligible']:,} eligible "
            f"scalars there, {eligible:,} here): another model, or budget, selection, seed, targets or mask was changed. "
            "Load it onto the base that it was trained on."
        )


def saved_positions(stored: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """The positions in ``adapter.safetensors``, by parameter name; None if only the seed was stored."""
    found = {key[: -len(".index")]: value for key, value in stored.items() if key.endswith(".index")}
    return found or None


def _hash(branches: Branches) -> str:
    combined = 0
    for branch in branches.values():
        combined ^= branch.fingerprint()
    return f"{combined:016x}"
