"""An adapter on disk: ``adapter.safetensors`` (branches and trained modules) and ``adapter.json`` (what it is made of).

Both are written to temporary names and renamed, so a crash leaves either the old files or the new ones.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fulgurite.adapters.config import config_to_dict
from fulgurite.whole_files import whole_files

if TYPE_CHECKING:
    from fulgurite.adapters.handle import Adapter

__all__ = ["read_adapter_config"]

WEIGHTS, CONFIG = "adapter.safetensors", "adapter.json"


def read_adapter_config(folder: str | Path) -> dict[str, Any]:
    """The content of ``adapter.json``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not an adapter of this toolkit.
    """
    path = Path(folder) / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"load_adapter: {path} does not exist; give the folder that adapter.save() wrote.")
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != "fulgurite-adapter":
            raise KeyError("format")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"load_adapter: {path} is not a Fulgurite adapter's description ({error!r}).") from None
    assert isinstance(description, dict)
    return description


def save(adapter: Adapter, folder: Path) -> None:
    """See :meth:`fulgurite.adapters.Adapter.save`."""
    description = {
        "format": "fulgurite-adapter",
        "version": 1,
        "name": adapter.name,
        "model": type(adapter.model).__name__,
        "adapter": config_to_dict(adapter.config),
        "train": list(adapter.train_patterns),
        **adapter.description(),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in _tensors(adapter).items()}
    with whole_files(folder, [WEIGHTS, CONFIG]) as (weights, config):
        save_file(tensors, weights, metadata={"format": "pt"})
        config.write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")


def load(adapter: Adapter, folder: Path) -> None:
    """See :meth:`fulgurite.adapters.Adapter.load`."""
    description = read_adapter_config(folder)
    adapter.check_description(description, folder)
    path = folder / WEIGHTS
    tensors = read_weights(path)
    wanted = _tensors(adapter)
    if missing := sorted(set(wanted) - set(tensors)):
        raise ValueError(
            f"load_adapter: {path} lacks {len(missing)} tensors, first {missing[0]!r}; it is another adapter's."
        )
    _check_heads(adapter, tensors, path)
    adapter.load_tensors(tensors)
    for name, head in adapter.heads.items():
        head.load_state_dict({k: tensors[f"{name}.{k}"] for k in head.state_dict()})


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"load_adapter: {path} does not exist; the folder is incomplete.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"load_adapter: {path} cannot be read, it is truncated or damaged ({error}). Save it again."
        ) from None


def _check_heads(adapter: Adapter, tensors: dict[str, torch.Tensor], path: Path) -> None:
    for name, head in adapter.heads.items():
        for key, value in head.state_dict().items():
            saved = tensors[f"{name}.{key}"].shape
            if saved != value.shape:
                raise ValueError(
                    f"load_adapter: {path}: {name}.{key} is {tuple(saved)}, the model's is {tuple(value.shape)}."
                )


def _tensors(adapter: Adapter) -> dict[str, torch.Tensor]:
    tensors = adapter.stored_tensors()
    for name, module in adapter.heads.items():
        tensors.update({f"{name}.{key}": value for key, value in module.state_dict().items()})
    return tensors
