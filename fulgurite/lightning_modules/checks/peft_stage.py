"""An adapter of PEFT as the stage before this one: merged into the base, or read as low-rank factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from fulgurite.adapters.low_rank.peft_export import unstacked
from fulgurite.adapters.low_rank.stacking import Factors
from fulgurite.models.weight_files import check_peft_file, check_peft_task

__all__ = ["is_peft_folder", "merge_peft", "peft_base", "peft_factors"]

_PREFIX = "base_model.model."


def is_peft_folder(path: str) -> bool:
    """Whether PEFT wrote the folder (`fulgurite export` writes such folders too).

    Args:
        path: a folder, or anything else.
    """
    place = Path(path)
    return (place / "adapter_config.json").is_file() and not (place / "adapter.json").is_file()


def merge_peft(model: nn.Module, path: str) -> None:
    """Fold PEFT's adapter into the model's weights, and take it off.

    Args:
        model: its base.
        path: the folder.

    Raises:
        ValueError: an adapter that does not fit the model, or that cannot be merged.
        ImportError: PEFT is not installed.
    """
    keys, loaded = set(model.state_dict()), _load(model, path)
    try:
        left = loaded.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, ValueError, TypeError) as error:
        raise ValueError(
            f"init_adapter: {path} is a {_kind(path)} adapter of PEFT that cannot be merged into its base ({error}); give a LoRA, "
            "or a base into which it was put otherwise"
        ) from error
    if left is not model or set(model.state_dict()) != keys:
        raise ValueError(
            f"init_adapter: {path} is a {_kind(path)} adapter of PEFT that leaves modules of its own in the model; give a LoRA "
            "without modules_to_save"
        )


def peft_factors(model: nn.Module, path: str) -> Factors:
    """The factors of PEFT's LoRA by layer name; the model is of no use afterwards.

    Args:
        model: its base.
        path: the folder.

    Raises:
        ValueError: an adapter that is more than A and B beside linear layers.
    """
    described = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    more = [
        key for key in ("use_dora", "modules_to_save", "trainable_token_indices", "lora_bias") if described.get(key)
    ]
    if described.get("peft_type") != "LORA" or more or described.get("bias", "none") != "none":
        raise ValueError(
            f"export: {path} is a {_kind(path)} adapter of PEFT{' with ' + ', '.join(more) if more else ''}, which is not a sum of "
            "low-rank terms; --format merged writes the whole model"
        )
    found = {}
    for name, layer in _load(model, path).named_modules():
        if hasattr(layer, "lora_A") and "default" in layer.lora_A:
            module: Any = layer
            a, b = module.lora_A["default"].weight.detach().float(), module.lora_B["default"].weight.detach().float()
            name = name.removeprefix(_PREFIX)
            parameter = getattr(module, "parameter_name", None)
            if (
                parameter is not None and module.get_param().dim() == 3
            ):  # experts; PEFT wraps their module once for each
                name = f"{name.replace('.base_layer', '')}.{parameter}"
                a, b = unstacked(a, b, module.num_experts)
            elif parameter not in (None, "weight"):
                name = f"{name}.{parameter}"
            found[name] = a * module.scaling["default"], b
    return found


def _load(model: nn.Module, path: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ImportError(f"init_adapter: {path} is an adapter of PEFT; pip install peft to read it") from error
    check_peft_task(path, "init_adapter")
    check_peft_file(path, "init_adapter")
    try:
        return PeftModel.from_pretrained(model, path)  # type: ignore[arg-type]
    except (RuntimeError, ValueError, OSError) as error:  # shapes that differ; layers or files that are not there
        lines = str(error).splitlines() or [type(error).__name__]
        reason = next((line.strip() for line in lines if "size mismatch" in line), lines[0])[:200]
        raise ValueError(
            f"init_adapter: {path} does not fit this backbone ({reason}); give the backbone that it was trained on"
        ) from error


def peft_base(path: str) -> object:
    """What the configuration of PEFT names as the base.

    Args:
        path: the folder.
    """
    described: Any = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    return described.get("base_model_name_or_path") if isinstance(described, dict) else None


def _kind(path: str) -> str:
    described: Any = json.loads((Path(path) / "adapter_config.json").read_text(encoding="utf-8"))
    return str(described.get("peft_type", "nameless"))
