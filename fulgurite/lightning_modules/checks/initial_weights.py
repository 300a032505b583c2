"""Beginning a run with the weights of an earlier stage: an adapter that is merged into the base, or a whole network."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fulgurite.adapters import attach, load_adapter
from fulgurite.adapters.methods import config_from_dict
from fulgurite.data.conditions.objectives import CONDITION_FILE, Objectives

__all__ = ["merge_adapter", "stored_conditions"]

_NETWORK = "network."


def merge_adapter(model: nn.Module, path: str) -> None:
    """Fold an adapter into the model's weights, and take it off; weights of a run without adapter replace the model's.

    Args:
        model: the base that the earlier run trained on.
        path: folder that ``adapter.save`` wrote, or a .ckpt file of `fulgurite fit`. If that run itself began with another's
            weights, these are merged first.

    Raises:
        FileNotFoundError, ValueError: nothing there, a damaged file, or one that does not fit the model.
    """
    if not path.endswith(".ckpt"):
        adapter = load_adapter(model, path)
        adapter.merge()
        adapter.detach()
        rank_zero_info(f"{path} was merged into the base")
        return
    checkpoint = _read(path)
    options = checkpoint.get("hyper_parameters") or {}
    tensors = {k.removeprefix(_NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(_NETWORK)}
    if options.get("init_adapter"):
        merge_adapter(model, options["init_adapter"])
    if not options.get("adapter"):
        _load(model, tensors, set(model.state_dict()), path)
        rank_zero_info(f"the weights of {path} were taken")
        return
    adapter = attach(model, config_from_dict(options["adapter"]))
    try:
        adapter.prepare_load(tensors, "")
        _load(model, tensors, set(model.state_dict()) - set(adapter.frozen_keys()), path)
        adapter.merge()
    finally:
        adapter.detach()
    rank_zero_info(f"the adapter of {path} was merged into the base")


def stored_conditions(path: str) -> Objectives | None:
    """The objectives that travel with an adapter's folder or a checkpoint; None where none do.

    Args:
        path: as :func:`merge_adapter` takes it.
    """
    if path.endswith(".ckpt"):
        stored: Any = _read(path).get("conditions")
    else:
        file = Path(path) / CONDITION_FILE
        stored = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    return None if stored is None else Objectives.from_dict(stored)


def _load(model: nn.Module, tensors: dict[str, torch.Tensor], wanted: set[str], path: str) -> None:
    buffers = {name for name, _ in model.named_buffers()}
    missing = sorted(wanted - set(tensors) - buffers)
    # Tied weights and the like stand there under one of their names only.
    shared = {name: value.data_ptr() for name, value in model.state_dict(keep_vars=True).items()}
    present = {shared[name] for name in tensors if name in shared}
    missing = [name for name in missing if shared[name] not in present]
    foreign = [name for name in tensors if ".branches." in name and name not in shared]
    if missing or foreign:
        raise ValueError(
            f"init_adapter: {path} does not fit this backbone: {len(missing)} tensors are missing in it and {len(foreign)} belong "
            f"to other layers, the first is {(missing or foreign)[0]!r}; give the backbone that it was trained on"
        )
    try:
        model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise ValueError(
            f"init_adapter: {path} does not fit this backbone ({str(error).splitlines()[-1].strip()}); give the backbone that it "
            "was trained on"
        ) from error


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"init_adapter: {path}: no such file; run the stage before this one first, or give its .ckpt file or adapter folder"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        content["state_dict"]
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"init_adapter: {path} cannot be read ({type(error).__name__}); it is truncated, or no checkpoint of `fulgurite fit`"
        ) from error
    return dict(content)
