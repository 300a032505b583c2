"""Live weights: a tensor holds base + δ at the trained positions, and base everywhere else.

The write goes through ``tensor.data``, which has a version counter of its own: a policy forward, a reference forward with the
base values put back, and a backward through the first may follow each other.
"""

from __future__ import annotations

import torch

__all__ = ["write_live_"]


@torch.no_grad()
def write_live_(
    tensor: torch.Tensor, index: torch.Tensor, base: torch.Tensor, delta: torch.Tensor | None = None
) -> None:
    """tensor[index] = base + delta, in place, without autograd and without raising the tensor's version.

    Args:
        tensor: the live weight, any shape, contiguous.
        index: flat positions, (n,) int64, unique.
        base: the untouched values, (n,), in tensor's dtype: the undone tensor is then the old one bit for bit.
        delta: (n,), float32 or float64; added in its own precision and rounded once. None writes ``base`` back.

    Raises:
        ValueError: a tensor that is not contiguous, or numbers that do not fit.
    """
    _check("write_live_", tensor, index, base)
    if delta is not None and delta.shape != index.shape:
        raise ValueError(f"write_live_: delta {tuple(delta.shape)} for {index.numel()} positions; want one value each.")
    values = base if delta is None else (base.to(delta.dtype) + delta).to(tensor.dtype)
    tensor.data.view(-1).index_copy_(0, index, values)


def _check(name: str, tensor: torch.Tensor, index: torch.Tensor, base: torch.Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name}: the live tensor's strides are {tensor.stride()}; it must be contiguous.")
    if index.dim() != 1 or index.dtype != torch.int64 or base.dtype != tensor.dtype or base.shape != index.shape:
        raise ValueError(
            f"{name}: index {index.dtype} {tuple(index.shape)}, base {base.dtype} {tuple(base.shape)} for {tensor.dtype}; "
            "want int64 (n,) and one value per position in the tensor's dtype."
        )
