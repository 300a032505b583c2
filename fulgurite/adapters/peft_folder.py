"""The folder that PEFT reads: adapter_model.safetensors and adapter_config.json, with the names that PEFT gives to layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from fulgurite.whole_files import whole_files

if TYPE_CHECKING:
    from fulgurite.adapters.handle import Adapter

__all__ = ["target_names", "write_folder"]


def write_folder(adapter: Adapter, folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """Write PEFT's two files: the branches' tensors with those of the fully trained modules, and the configuration.

    Raises:
        ValueError: a fully trained module shares a parameter with another one, which PEFT would leave as it was.
    """
    for name, head in adapter.heads.items():
        mine, inside = {id(p) for p in head.parameters()}, set(head.modules())
        for other, module in adapter.model.named_modules():
            if module not in inside and any(id(p) in mine for p in module.parameters(recurse=False)):
                raise ValueError(
                    f"export_peft: {name} was trained whole and is tied to {other}, which was trained with it; PEFT keeps "
                    f"{name} alone and would give another model. Merge the adapter and save the whole model "
                    "(`fulgurite export --format merged`)."
                )
        for key, value in head.state_dict().items():
            tensors[f"base_model.model.{name}.{key}"] = value.detach().cpu().clone()
    with whole_files(folder, ["adapter_model.safetensors", "adapter_config.json"]) as (weights, described):
        save_file(tensors, weights, metadata={"format": "pt"})
        described.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def target_names(adapter: Adapter, names: list[str]) -> list[str]:
    """``target_modules``: last parts of the names (what readers expect) if they select exactly these modules, else whole names."""
    short = sorted({name.rpartition(".")[2] for name in names})
    chosen = set(names)
    for name, _ in adapter.model.named_modules():
        if name.rpartition(".")[2] in short and name not in chosen:
            return sorted(names)
    return short
