"""Attaches to a model what an adapter's ``save`` wrote."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from fulgurite.adapters.attaching import attach
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.methods import config_from_dict, method_of
from fulgurite.adapters.storage import read_adapter_config

__all__ = ["load_adapter"]


def load_adapter(model: nn.Module, folder: str | Path, *, name: str | None = None) -> Adapter:
    """Attach to ``model`` what ``adapter.save(folder)`` wrote.

    Args:
        model: the base that the adapter was trained on, or one of the same shape.
        folder: where :meth:`Adapter.save` wrote.
        name: default: the name it was saved under.

    Raises:
        FileNotFoundError, ValueError: missing, truncated or foreign files; a model whose layers differ.
    """
    description = read_adapter_config(folder)
    config = config_from_dict(description["adapter"])
    choice = method_of(config).restore(model, description, Path(folder))
    adapter = attach(
        model,
        config,
        train=tuple(description["train"]),
        name=name or description["name"],
        positions=choice.positions,
        scores=choice.scores,
    )
    try:
        adapter.load(folder)
    except Exception:
        adapter.detach()
        raise
    return adapter
