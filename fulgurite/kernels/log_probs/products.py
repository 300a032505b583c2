"""Products of tiles with an output head's tensors, and the form of the head that tiles multiply with."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

__all__ = ["Head", "part_of", "plus_product", "raw_logits", "wide_product"]


class Head(NamedTuple):
    """A head ready for tiles: weight (V, H), bias (V,) or None, up (V, r) or None, and what is done to the logits.

    ``up`` is scaling · g ⊙ B of the head's branch, in float32 or wider; its other half, ``low`` = h Aᵀ, comes beside the rows.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    up: torch.Tensor | None
    logit_scale: float
    softcap: float | None


def raw_logits(rows: torch.Tensor, low: torch.Tensor | None, head: Head, out: torch.Tensor) -> None:
    """rows Wᵀ + bias + low upᵀ, written to ``out``, before any scale or cap."""
    if head.bias is None:
        torch.mm(rows, head.weight.t(), out=out)
    else:
        torch.addmm(head.bias, rows, head.weight.t(), out=out)
    if low is not None and head.up is not None:
        out.addmm_(low, head.up.t())


def part_of(head: Head, columns: slice) -> Head:
    """The head of these columns of the vocabulary."""
    cut = lambda tensor: None if tensor is None else tensor[columns]  # noqa: E731
    return head._replace(weight=head.weight[columns], bias=cut(head.bias), up=cut(head.up))


def plus_product(total: torch.Tensor | None, tile: torch.Tensor, factor: Any, wide: torch.dtype) -> torch.Tensor:
    """total + tile factor, in ``wide``."""
    if total is None:
        return (tile @ factor).to(wide)
    return total.addmm_(tile, factor) if tile.dtype == wide else total.add_(tile @ factor)


def wide_product(left: torch.Tensor, right: Any) -> torch.Tensor:
    """left right in float32 at the least, on a GPU without wide copies of the operands."""
    wide = torch.promote_types(left.dtype, torch.float32)
    if left.is_cuda and left.dtype != wide:
        return torch.mm(left, right, out_dtype=wide)
    return left.to(wide) @ right.to(wide)
