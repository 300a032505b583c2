"""Loading the specialists of a fused model: whole models, or several adapters on one base that is held once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from fulgurite.adapters import Adapter, AdapterConfig, attach, load_adapter
from fulgurite.models.loading import load_backbone

__all__ = ["Specialist", "adapter_base", "load_specialists"]


class Specialist(NamedTuple):
    """A model, which several specialists may share, and the adapter that makes it this specialist, if there is one."""

    model: nn.Module
    adapter: Adapter | None


def adapter_base(folder: str) -> str | None:
    """The base that an adapter's description names; "" where it names none; None where the folder holds no adapter.

    Args:
        folder: a folder, or anything else.

    Raises:
        ValueError: a description that cannot be read; an adapter of PEFT, which has to be converted.
    """
    place = Path(folder)
    if (place / "config.json").is_file() or not place.is_dir():
        return None
    if (place / "adapter_config.json").is_file() and not (place / "adapter.json").is_file():
        raise ValueError(
            f"adapter_base: {folder} is an adapter of PEFT; a fused base takes adapters that adapter.save() or `fulgurite "
            "export --format adapter` wrote: merge this adapter into its base, and give the merged folder as a whole model"
        )
    file = place / "adapter.json"
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text(encoding="utf-8")).get("base_model") or "")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"adapter_base: {file} cannot be read ({error}); save the adapter again") from error


def load_specialists(
    folders: Sequence[str],
    base: str | None,
    *,
    names: Sequence[str] | None = None,
    adapter: AdapterConfig | None = None,
    dtype: str = "float32",
    trust_remote_code: bool = False,
) -> list[Specialist]:
    """The specialists, all frozen.

    Args:
        folders: hub ids or folders of whole models, or folders of adapters; not both.
        base: hub id or folder of what the adapters stand on; None for whole models.
        names: what messages call them.
        adapter: put onto each whole model.
        dtype: dtype of the weights.
        trust_remote_code: run model code from the checkpoints' repositories.

    Raises:
        ValueError: adapters and whole models together, a base without adapters on it, a model without an output head.
        FileNotFoundError: no such model.
    """
    names = list(names or folders)
    bases = [adapter_base(folder) for folder in folders]
    if base is not None and any(found is None for found in bases):
        which = names[bases.index(None)]
        raise ValueError(
            f"load_specialists: {which!r} is no adapter, but a base was given ({base}); give adapters on that base, or whole "
            "models and no base"
        )
    if base is None and any(found is not None for found in bases):
        which = next(name for name, found in zip(names, bases, strict=True) if found is not None)
        raise ValueError(
            f"load_specialists: {which!r} is an adapter; its base is needed, and all specialists on it must be adapters"
        )
    if base is not None and adapter is not None:
        raise ValueError(
            f"load_specialists: {adapter} was given, but the specialists are adapters already; leave it out"
        )
    found: list[Specialist] = []
    if base is not None:
        model = load_backbone(base, "causal_lm", dtype=dtype, trust_remote_code=trust_remote_code).model
        for place, folder in enumerate(folders):
            found.append(Specialist(model, load_adapter(model, folder, name=f"specialist{place}")))
    else:
        for folder, name in zip(folders, names, strict=True):
            loaded = load_backbone(folder, "causal_lm", dtype=dtype, trust_remote_code=trust_remote_code)
            if loaded.new_heads:
                raise ValueError(
                    f"load_specialists: the weights of {name!r} hold no {', '.join(loaded.new_heads)}; give a language model"
                )
            found.append(Specialist(loaded.model, None if adapter is None else attach(loaded.model, adapter)))
    for specialist in found:
        specialist.model.requires_grad_(False)
    return found
