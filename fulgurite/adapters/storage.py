"""The folder of an adapter: ``adapter.safetensors`` (branches and trained modules) and ``adapter.json`` (what it is made of).

Both files are written under temporary names and then renamed, so that a crash leaves either the old files or the new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from fulgurite.whole_files import whole_files

__all__ = ["check_layers", "check_tensors", "load_branches", "read_adapter_config", "read_tensors", "write_adapter"]

_WEIGHTS, _DESCRIPTION = "adapter.safetensors", "adapter.json"
_FORMAT, _VERSION = "fulgurite-adapter", 1


def write_adapter(folder: Path, description: dict[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write both files of an adapter.

    Args:
        folder: made if it does not exist.
        description: what ``adapter.json`` holds beside format and version.
        tensors: what ``adapter.safetensors`` holds.
    """
    stored = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    whole = {"format": _FORMAT, "version": _VERSION, **description}
    with whole_files(folder, [_WEIGHTS, _DESCRIPTION]) as (weights, described):
        save_file(stored, weights, metadata={"format": "pt"})
        described.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """The content of ``adapter.json``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an adapter of this toolkit.
    """
    path = Path(folder) / _DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(f"load_adapter: {path} does not exist; give the folder that adapter.save() wrote.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"load_adapter: {path} is not a Fulgurite adapter's description ({error}).") from None
    if not isinstance(description, dict) or description.get("format") != _FORMAT:
        raise ValueError(
            f"load_adapter: {path} is not a Fulgurite adapter's description (its format is not {_FORMAT!r})."
        )
    if description.get("version") != _VERSION:
        raise ValueError(
            f"load_adapter: {path} has the version {description.get('version')!r}; this release reads version {_VERSION}. Load it "
            "with the release that wrote it."
        )
    for key, kind, words in (("name", str, "a name"), ("adapter", dict, "a configuration"), ("train", list, "a list")):
        if not isinstance(description.get(key), kind):
            raise ValueError(f"load_adapter: {path}: {key!r} is {description.get(key)!r}; it must be {words}.")
    if not all(isinstance(pattern, str) for pattern in description["train"]):
        raise ValueError(
            f"load_adapter: {path}: 'train' is {description['train']!r}; it must be a list of expressions."
        )
    return description


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The content of ``adapter.safetensors``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a truncated or damaged file.
    """
    path = folder / _WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"load_adapter: {path} does not exist; the folder is incomplete.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"load_adapter: {path} cannot be read, it is truncated or damaged ({error}). Save it again."
        ) from None


def check_layers(folder: Path, mine: Mapping[str, Any], saved: Any, words: str) -> None:
    """Check that the folder was made for the adapter's layers.

    Args:
        folder: where it was read, for the message.
        mine: what the adapter's description says of each layer.
        saved: what ``adapter.json`` says.
        words: what that is, for the message.

    Raises:
        ValueError: a layer that differs, or that only one of them has.
    """
    if not isinstance(saved, dict):
        raise ValueError(f"load_adapter: adapter.json in {folder} does not list the layers; save the adapter again.")
    differing = [name for name in {**mine, **saved} if mine.get(name) != saved.get(name)]
    if differing:
        first = differing[0]
        raise ValueError(
            f"load_adapter: {folder} was made for other layers than this model's; {len(differing)} differ, the first is {first!r}: "
            f"saved {saved.get(first)}, here {mine.get(first)} ({words}). Load it onto the base that it was trained on."
        )


def check_tensors(
    folder: Path,
    tensors: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    fits: Callable[[str, torch.Size, torch.Size], bool],
    optional: tuple[str, ...] = (),
) -> None:
    """Check what :func:`read_tensors` gave against the tensors of the adapter that it goes to, before anything is loaded.

    Args:
        folder: where it was read, for the messages.
        tensors: of the file.
        own: the adapter's, and those of its fully trained modules.
        fits: whether a tensor can be loaded, by its key, its shape in the file and the shape of the adapter's own.
        optional: endings of keys that the file may hold although the adapter does not.

    Raises:
        ValueError: a tensor that is missing or left over, has another shape or kind of numbers, or holds NaN or infinity.
    """
    path = folder / _WEIGHTS
    if missing := sorted(set(own) - set(tensors)):
        raise ValueError(
            f"load_adapter: {path} lacks {len(missing)} tensors, the first is {missing[0]!r}; the file belongs to another adapter."
        )
    if left := sorted(key for key in set(tensors) - set(own) if not key.endswith(optional)):
        raise ValueError(
            f"load_adapter: {path} holds {len(left)} tensors that this adapter has no place for, the first is {left[0]!r}; attach "
            "with the configuration and train= that were saved (load_adapter does)."
        )
    for key, value in own.items():
        saved = tensors[key]
        if saved.is_floating_point() != value.is_floating_point() or saved.is_complex() or saved.dtype == torch.bool:
            kind = "floating-point numbers" if value.is_floating_point() else "whole numbers"
            raise ValueError(
                f"load_adapter: {path}: {key} is {saved.dtype}; it must be {kind} (here {value.dtype}). Save the adapter again."
            )
        if not fits(key, saved.shape, value.shape):
            raise ValueError(
                f"load_adapter: {path}: {key} is {tuple(saved.shape)}, the model's is {tuple(value.shape)}."
            )
        if not _finite(saved) and _finite(value):
            raise ValueError(
                f"load_adapter: {path}: {key} holds NaN or infinity, so that the model would compute nothing of use; take an "
                "earlier checkpoint, or train again."
            )


def load_branches(branches: Mapping[str, nn.Module], tensors: Mapping[str, torch.Tensor]) -> None:
    """Give branches, by layer name, the state that stands under ``<layer>.<key>`` in a file.

    Raises:
        ValueError: tensors of one layer that do not fit each other.
    """
    for name, branch in branches.items():
        try:
            branch.load_state_dict({key: tensors[f"{name}.{key}"] for key in branch.state_dict()})
        except (RuntimeError, ValueError) as error:
            last = str(error).splitlines()[-1].strip()
            raise ValueError(f"load_adapter: the tensors of {name} do not fit each other: {last}") from None


def _finite(tensor: torch.Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.detach().float()).all())
