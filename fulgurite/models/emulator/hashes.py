"""A fingerprint of a model's weights, part by part: equal fingerprints mean the same base, whatever folders are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

__all__ = ["WeightHashes", "layer_hash", "weight_hashes"]


class WeightHashes(NamedTuple):
    """SHA-256 of the parameters' names, shapes, dtypes and values.

    Attributes:
        layers: of each repeated layer, with names inside of it.
        rest: of all others: embeddings, final norm, output head.
    """

    layers: list[str]
    rest: str

    @property
    def whole(self) -> str:
        """Of the model."""
        return hashlib.sha256(" ".join([self.rest, *self.layers]).encode()).hexdigest()


def weight_hashes(model: nn.Module, layers: str) -> WeightHashes:
    """The fingerprint of a model. Tied parameters count under their first name; buffers do not count.

    Args:
        model: any module.
        layers: qualified name of the list of its repeated layers.
    """
    stack: nn.ModuleList = model.get_submodule(layers)  # type: ignore[assignment]
    inside = f"{layers}."
    rest = ((name, p) for name, p in model.named_parameters() if not name.startswith(inside))
    return WeightHashes([layer_hash(layer) for layer in stack], _hash(rest))


def layer_hash(layer: nn.Module) -> str:
    """The fingerprint of one layer.

    Args:
        layer: any module.
    """
    return _hash(layer.named_parameters())


def _hash(parameters: Iterable[tuple[str, nn.Parameter]]) -> str:
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters):
        tensor = parameter.detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
