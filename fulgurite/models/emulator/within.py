"""An adapter's configuration narrowed to chosen layers of a model: the trained ones, in the emulator and in the full model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import regex
from torch import nn

from fulgurite.adapters import AdapterConfig
from fulgurite.adapters.layers.targets import find_targets
from fulgurite.adapters.methods import method_of

__all__ = ["within_layers"]


def within_layers(config: AdapterConfig, model: nn.Module, layers: str, numbers: Iterable[int]) -> AdapterConfig:
    """The same adapter with `targets` that match inside of these layers only.

    Args:
        config: LoRA, SoRA, APET or another with `targets` over names; a regex there still has to match the whole name.
        model: that it is going to be attached to.
        layers: qualified name of the list of layers.
        numbers: places in that list.

    Raises:
        ValueError: an adapter that does not say by names where it goes.
    """
    fields: set[str] = (
        {field.name for field in dataclasses.fields(config)} if dataclasses.is_dataclass(config) else set()
    )
    targets = str(getattr(config, "targets", ""))
    sparse = method_of(config).takes_choice
    if "targets" not in fields or targets == "outputs" or (sparse and "storage" not in fields):
        raise ValueError(
            f"within_layers: {type(config).__name__} cannot be put into some layers and leave them as weights; allowed are LoRA, "
            "SoRA, APET, or no adapter, which trains the layers whole"
        )
    start = rf"{regex.escape(layers)}\.(?:{'|'.join(map(str, sorted(numbers)))})\."
    if targets == "all":
        inside = f"{start}.*"
    elif targets == "all-linear":
        mine = [name for name in find_targets(model, "all-linear") if regex.match(start, name)]
        ends = dict.fromkeys(name.removeprefix(f"{layers}.").partition(".")[2] for name in mine)
        # Low-rank adapters match names of modules, sparse ones names of parameters.
        inside = rf"{start}(?:{'|'.join(map(regex.escape, ends))})(?:\.weight)?"
    else:
        inside = f"(?={start})(?:{targets})"
    # Places have other names in the full model, so that a seed would draw other positions there: they travel themselves.
    stored = {"storage": "indices"} if sparse else {}
    changed: Any = config
    narrowed: AdapterConfig = dataclasses.replace(changed, targets=inside, **stored)
    return narrowed
