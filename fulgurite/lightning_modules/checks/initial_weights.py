"""Beginning a run with the weights of an earlier stage: an adapter that is merged into the base, or a whole network."""

from __future__ import annotations

import importlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from fulgurite.adapters import Adapter, AdapterConfig, attach, load_adapter, positions_in
from fulgurite.adapters.low_rank.stacking import Factors
from fulgurite.adapters.methods import config_from_dict, method_of
from fulgurite.data.conditions.objectives import CONDITION_FILE, Objectives
from fulgurite.data.playground import same_backbone
from fulgurite.lightning_modules.checks.peft_stage import is_peft_folder, merge_peft, peft_base, peft_factors
from fulgurite.models.weight_files import first_not_finite

__all__ = ["low_rank_parts", "merge_adapter", "stored_conditions"]

_NETWORK = "network."


def merge_adapter(model: nn.Module, path: str) -> None:
    """Fold an adapter into the model's weights, and take it off; weights of a run without adapter replace the model's.

    Args:
        model: the base that the earlier run trained on.
        path: folder that ``adapter.save`` or PEFT wrote, or a .ckpt file of `fulgurite fit`. If that run itself began with
            another's weights, these are merged first.

    Raises:
        FileNotFoundError, ValueError: nothing there, a damaged file, or one that does not fit the model.
    """
    if is_peft_folder(path):
        _tell_other_base(model, peft_base(path), path)
        merge_peft(model, path)
    elif not path.endswith(".ckpt"):
        adapter = load_adapter(model, path)
        adapter.merge()
        adapter.detach()
    else:
        checkpoint = _read(path)
        if before := _options(checkpoint).get("init_adapter"):
            merge_adapter(model, before)
        _tell_other_base(model, _options(checkpoint).get("backbone"), path)
        config, tensors = _adapter_of(checkpoint, path), _tensors(checkpoint)
        if config is None:
            _load(model, tensors, set(model.state_dict()), path)
            rank_zero_info(f"the weights of {path} were taken")
            return
        adapter = _attach_trained(model, config, tensors, path)
        try:
            adapter.merge()
        finally:
            adapter.detach()
    rank_zero_info(f"the adapter of {path} was merged into the base")


def _tell_other_base(model: nn.Module, trained: object, path: str) -> None:
    """Says that a stage was trained on another base than this one: of the same shape it fits without a word."""
    name = getattr(getattr(model, "config", None), "_name_or_path", None)
    if isinstance(trained, str) and trained and isinstance(name, str) and name and not same_backbone(trained, name):
        rank_zero_warn(f"init_adapter: {path} was trained on {trained}, and is put into {name}")


def low_rank_parts(make_base: Callable[[], nn.Module], path: str) -> list[Factors]:
    """What stands between a base and the weights that :func:`merge_adapter` makes of it, as sums of low-rank terms.

    Args:
        make_base: loads the base; called once for each stage.
        path: as :func:`merge_adapter` takes it.

    Raises:
        ValueError: a stage that is no low-rank adapter.
    """
    base = make_base()
    if is_peft_folder(path):
        return [peft_factors(base, path)]
    earlier: list[Factors] = []
    if path.endswith(".ckpt"):
        checkpoint = _read(path)
        if before := _options(checkpoint).get("init_adapter"):
            earlier = low_rank_parts(make_base, before)
        config = _adapter_of(checkpoint, path)
        adapter = None if config is None else _attach_trained(base, config, _tensors(checkpoint), path)
    else:
        adapter = load_adapter(base, path)
    factors = None if adapter is None else adapter.low_rank_factors()
    if factors is None:
        what = "the whole network" if adapter is None else f"an adapter of kind {adapter.kind}"
        raise ValueError(
            f"export: the adapter stands on a base into which {path} was put, {what}, and together they are no low-rank adapter on "
            "the base alone; --format merged writes the whole model"
        )
    return [*earlier, factors]


def _attach_trained(model: nn.Module, config: AdapterConfig, tensors: dict[str, torch.Tensor], path: str) -> Adapter:
    """The adapter of a checkpoint on the model, with its trained values."""
    # Positions that gradients chose are known to the checkpoint alone.
    positions = positions_in(tensors, "", "default") if method_of(config).takes_choice else None
    adapter = attach(model, config, positions=positions, check_forward=False)
    try:
        adapter.prepare_load(tensors, "")
        _load(model, tensors, set(model.state_dict()) - set(adapter.frozen_keys()), path)
    except Exception:
        adapter.detach()
        raise
    return adapter


def _options(checkpoint: dict[str, Any]) -> dict[str, Any]:
    return dict(checkpoint.get("hyper_parameters") or {})


def _tensors(checkpoint: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {k.removeprefix(_NETWORK): v for k, v in checkpoint["state_dict"].items() if k.startswith(_NETWORK)}


def _adapter_of(checkpoint: dict[str, Any], path: str) -> AdapterConfig | None:
    """The adapter that the checkpoint's run trained; None where it trained the whole network."""
    options = _options(checkpoint)
    stored = checkpoint.get("adapter") or options.get("adapter")
    if stored or not any(".branches." in key for key in checkpoint["state_dict"]):
        return config_from_dict(stored) if stored else None
    # Modules that lay their adapter's options flat: checkpoints of earlier versions do not describe it otherwise.
    package, _, name = str(options.get("_class_path")).rpartition(".")
    cls = getattr(importlib.import_module(package), name, None) if package.startswith("fulgurite.") else None
    if cls is None:
        raise ValueError(
            f"init_adapter: {path} holds an adapter and does not say which; give the folder of adapter.save(), or of `fulgurite "
            "export --format adapter`"
        )
    config: AdapterConfig | None = cls(**{k: v for k, v in options.items() if not k.startswith("_")}).adapter_config
    return config


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
    if (name := first_not_finite(content["state_dict"])) is not None:
        raise ValueError(
            f"init_adapter: {path}: {name} holds NaN or infinity, so that nothing could be trained upon it; take an earlier "
            "checkpoint"
        )
    return dict(content)
