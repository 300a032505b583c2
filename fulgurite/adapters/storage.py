"""The folder of an adapter: ``adapter.safetensors`` (branches and trained modules) and ``adapter.json`` (what it is made of).

Both files are written under temporary names and then renamed, so that a crash leaves either the old files or the new ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fulgurite.whole_files import whole_files

__all__ = ["check_layers", "check_tensors", "read_adapter_config", "read_tensors", "write_adapter"]

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
        if description["format"] != _FORMAT:
            raise KeyError("format")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load_adapter: {path} is not a Fulgurite adapter's description ({error!r}).") from None
    assert isinstance(description, dict)
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


def check_layers(folder: Path, mine: Mapping[str, Any], saved: Mapping[str, Any], words: str) -> None:
    """Check that the folder was made for the adapter's layers.

    Args:
        folder: where it was read, for the message.
        mine: what the adapter's description says of each layer.
        saved: what ``adapter.json`` says.
        words: what that is, for the message.

    Raises:
        ValueError: a layer that differs, or that only one of them has.
    """
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
    heads: Mapping[str, torch.Tensor],
) -> None:
    """Check what :func:`read_tensors` gave against the tensors of the adapter that it goes to.

    Args:
        folder: where it was read, for the messages.
        tensors: of the file.
        own: the adapter's, whose shapes may differ where ranks were cut out.
        heads: those of the fully trained modules, whose shapes must be the same.

    Raises:
        ValueError: a missing tensor, or one of another shape.
    """
    path = folder / _WEIGHTS
    if missing := sorted({*own, *heads} - set(tensors)):
        raise ValueError(
            f"load_adapter: {path} lacks {len(missing)} tensors, first {missing[0]!r}; it is another adapter's."
        )
    for key, value in heads.items():
        if tensors[key].shape != value.shape:
            raise ValueError(
                f"load_adapter: {path}: {key} is {tuple(tensors[key].shape)}, the model's is {tuple(value.shape)}."
            )
