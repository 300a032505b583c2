"""The folder that PEFT reads: ``adapter_model.safetensors`` and ``adapter_config.json``, with PEFT's names of layers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from fulgurite.adapters.layers.own import own_state
from fulgurite.whole_files import whole_files

__all__ = ["write_folder"]

_PREFIX = "base_model.model."  # where PEFT's own model holds the base


def write_folder(
    folder: Path,
    model: nn.Module,
    layers: Mapping[str, Mapping[str, torch.Tensor]],
    heads: Mapping[str, nn.Module],
    config: Mapping[str, Any],
    base_model: str | None,
    task_type: str | None,
    parameters: Mapping[str, str] | None = None,
    places: Mapping[str, str] | None = None,
) -> None:
    """Write PEFT's two files: the tensors of the adapted layers with those of the fully trained modules, and the configuration.

    Args:
        folder: made if it does not exist.
        model: the adapted model.
        layers: by a layer's name in the model, its tensors by PEFT's names, such as "lora_A.weight".
        heads: the fully trained modules by name.
        config: what PEFT's configuration says of the method; keys common to all methods are added.
        base_model: hub id or path of the base, or None.
        task_type: PEFT's task type, or None.
        parameters: by the names of those layers that PEFT is to adapt as a Parameter, the name of that Parameter.
        places: where PEFT keeps the tensors of layers, where this is not under their names.

    Raises:
        ValueError: a fully trained module shares a parameter with another module, which PEFT would leave as it was.
    """
    _refuse_tied(model, heads)
    given = {name: parameter for name, parameter in (parameters or {}).items() if name in layers}
    at = {name: (places or {}).get(name, name) for name in layers}
    tensors = {f"{_PREFIX}{at[name]}.{key}": value for name, named in layers.items() for key, value in named.items()}
    for name, head in heads.items():
        for key, value in own_state(head).items():
            tensors[f"{_PREFIX}{name}.{key}"] = value.detach().cpu().clone()
    whole = {
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "target_modules": _target_names(model, [name for name in layers if name not in given]),
        **({"target_parameters": _parameter_names(model, list(given.values()))} if given else {}),
        "modules_to_save": sorted(heads) or None,
        **config,
    }
    with whole_files(folder, ["adapter_model.safetensors", "adapter_config.json"]) as (weights, described):
        save_file(tensors, weights, metadata={"format": "pt"})
        described.write_text(json.dumps(whole, indent=2) + "\n", encoding="utf-8")


def _refuse_tied(model: nn.Module, heads: Mapping[str, nn.Module]) -> None:
    for name, head in heads.items():
        mine, inside = {id(p) for p in head.parameters()}, set(head.modules())
        for other, module in model.named_modules():
            if module not in inside and any(id(p) in mine for p in module.parameters(recurse=False)):
                raise ValueError(
                    f"export_peft: {name} was trained whole and is tied to {other}, which was trained with it; PEFT would load "
                    f"{name} alone and compute with another model. Merge the adapter and save the whole model "
                    "(`fulgurite export --format merged`)."
                )


def _target_names(model: nn.Module, names: list[str]) -> list[str]:
    """The last parts of the names ("query"), as readers expect, if they select exactly these modules; else the whole names."""
    short = sorted({name.rpartition(".")[2] for name in names})  # none at all: PEFT then adapts Parameters only
    chosen = set(names)
    for name, _ in model.named_modules():
        if name.rpartition(".")[2] in short and name not in chosen:
            return sorted(names)
    return short


def _parameter_names(model: nn.Module, names: list[str]) -> list[str]:
    """The last two parts of the names ("experts.down_proj") if they select exactly these Parameters; else the whole names."""
    short = sorted({".".join(name.split(".")[-2:]) for name in names})
    ends = tuple(f".{name}" for name in short)
    selected = {name for name, _ in model.named_parameters() if name in short or name.endswith(ends)}
    return short if selected == set(names) else sorted(names)
