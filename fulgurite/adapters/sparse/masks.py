"""Masks that a user gives (boolean tensors of the weights' shapes, or flat positions): checked and turned into positions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from fulgurite.adapters.sparse.eligible import Eligible

__all__ = ["positions_of", "read_mask"]


def read_mask(path: str | None) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, by parameter name.

    Raises:
        ValueError, FileNotFoundError: no path, no such file, or a damaged one.
    """
    if path is None:
        raise ValueError(
            "APET: selection='mask' needs mask= (a safetensors file), or attach(…, positions={name: mask})."
        )
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"APET: mask={path!r} does not exist; give a safetensors file of masks by parameter name."
        )
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"APET: mask={path!r} cannot be read as safetensors ({error}).") from None


def positions_of(masks: Mapping[str, torch.Tensor], eligible: list[Eligible]) -> dict[str, torch.Tensor]:
    """Sorted int64 positions of masks (bool or uint8, of the tensor's shape) or of flat positions (int32 or int64).

    Raises:
        ValueError: a name that is not eligible, a wrong shape or dtype, positions outside of the tensor or given twice, or
            nothing selected.
    """
    names = {}
    for tensor in eligible:
        for alias in (tensor.name, *(f"{layer}.{key}" if layer else key for layer, key in tensor.tied)):
            names[alias] = tensor
    result: dict[str, torch.Tensor] = {}
    for name, mask in masks.items():
        if name not in names:
            raise ValueError(f"APET: the mask names {name!r}, which is no eligible parameter of this model.")
        tensor = names[name]
        if tensor.name in result:
            raise ValueError(f"APET: the mask names {name!r} and a tensor tied to it; give one of them.")
        index = _flat(name, mask, tensor)
        if index.numel():
            result[tensor.name] = index
    if not result:
        raise ValueError("APET: the mask selects nothing; at least one scalar must be trained.")
    return {tensor.name: result[tensor.name] for tensor in eligible if tensor.name in result}


def _flat(name: str, mask: torch.Tensor, tensor: Eligible) -> torch.Tensor:
    if mask.dtype in (torch.bool, torch.uint8):
        if tuple(mask.shape) != tensor.shape:
            raise ValueError(
                f"APET: the mask of {name} has the shape {tuple(mask.shape)}, the tensor has {tensor.shape}."
            )
        if int(mask.max()) > 1 if mask.numel() else False:
            raise ValueError(f"APET: the mask of {name} holds {int(mask.max())}; a mask holds 0 and 1 only.")
        return mask.reshape(-1).nonzero().squeeze(1).cpu()
    if mask.dtype not in (torch.int32, torch.int64) or mask.dim() != 1:
        raise ValueError(
            f"APET: the mask of {name} is {mask.dtype} {tuple(mask.shape)}; allowed are bool of the shape {tensor.shape}, or flat "
            "positions, (n,) int64."
        )
    index = mask.detach().cpu().to(torch.int64).sort().values
    if index.numel() and (int(index[0]) < 0 or int(index[-1]) >= tensor.numel):
        raise ValueError(
            f"APET: the positions of {name} run from {int(index[0])} to {int(index[-1])}; allowed are 0 to {tensor.numel - 1}."
        )
    if bool((index[1:] == index[:-1]).any()):
        twice = int(index[1:][index[1:] == index[:-1]][0])
        raise ValueError(f"APET: position {twice} of {name} is given twice; every scalar can be trained once.")
    return index
