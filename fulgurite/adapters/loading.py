"""Attaches to a model what an adapter's `save` wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from fulgurite.adapters.config import APET, config_from_dict
from fulgurite.adapters.sparse import storage as sparse_storage
from fulgurite.adapters.storage import WEIGHTS, read_adapter_config, read_weights

if TYPE_CHECKING:
    from fulgurite.adapters.handle import Adapter

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
    from fulgurite.adapters.attaching import attach

    description = read_adapter_config(folder)
    config = config_from_dict(description["adapter"])
    positions = None
    if isinstance(config, APET):
        sparse_storage.check_model(model, description, Path(folder))
        positions = sparse_storage.saved_positions(read_weights(Path(folder) / WEIGHTS))
    adapter = attach(
        model, config, train=tuple(description["train"]), name=name or description["name"], positions=positions
    )
    try:
        adapter.load(folder)
    except Exception:
        adapter.detach()
        raise
    return adapter
