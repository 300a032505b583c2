"""Selected entries of G = leftᵀ right, left (M, rows) and right (M, columns), in plain PyTorch, in chunks of bounded size.

The methods are those of :mod:`fulgurite.kernels.sparse_plan`. Sums over M run in float32 (float64 for float64 operands);
nothing larger than a chunk is alive beside the operands.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from fulgurite.kernels.sparse_plan import CHUNK_NUMBERS, SparsePlan

__all__ = ["compacted", "selected_entries"]

# Tokens that sampled products handle at a time: the transposed float32 copies of a chunk stay in the cache.
TOKENS = 512


def compacted(side: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """The columns ``ids`` of (M, C), all for None."""
    return side if ids is None else side.index_select(1, ids)


def selected_entries(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan, method: str) -> torch.Tensor:
    """(n,) float32 or float64: the entries of leftᵀ right at ``plan.index``; both sides are compacted already."""
    wide = torch.promote_types(left.dtype, torch.float32)
    n = plan.columns.numel()
    if not n or not left.shape[0]:
        return left.new_zeros(n, dtype=wide)
    if method == "dots":
        return _dots(left, right, plan, wide)
    if method == "sampled":
        return _sampled(left, right, plan, wide)
    return _dense(left, right, plan, wide)


def _entry_rows(plan: SparsePlan) -> torch.Tensor:
    """Each entry's row among those that take part, (n,)."""
    counts = plan.starts.diff()
    return torch.repeat_interleave(counts, output_size=plan.columns.numel())


def _dots(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan, wide: torch.dtype) -> torch.Tensor:
    return (left.index_select(1, _entry_rows(plan)).to(wide) * right.index_select(1, plan.columns).to(wide)).sum(0)


def _sampled(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan, wide: torch.dtype) -> torch.Tensor:
    total = left.new_zeros(plan.columns.numel(), dtype=wide)
    size = (plan.starts.numel() - 1, right.shape[1])
    for first in range(0, left.shape[0], TOKENS):
        mine = left[first : first + TOKENS].to(wide).t()
        other = right[first : first + TOKENS].to(wide)
        pattern = torch.sparse_csr_tensor(plan.starts, plan.columns, total, size, check_invariants=False)
        total = torch.sparse.sampled_addmm(pattern, mine, other, beta=1.0 if first else 0.0).values()
    return total


def _dense(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan, wide: torch.dtype) -> torch.Tensor:
    """The product, ``CHUNK_NUMBERS`` at a time; products of half precision are rounded to it, as a dense gradient would be."""
    rows, columns = left.shape[1], right.shape[1]
    height = max(1, min(rows, CHUNK_NUMBERS // columns))
    total = left.new_empty(plan.columns.numel(), dtype=wide)
    bounds = plan.starts[torch.arange(0, rows + height, height, device=plan.starts.device).clamp_(max=rows)].tolist()
    places = _entry_rows(plan) % height * columns + plan.columns
    for number, (first, last) in enumerate(pairwise(bounds)):
        if last > first:
            chunk = left[:, number * height : (number + 1) * height].t() @ right
            total[first:last] = chunk.view(-1).index_select(0, places[first:last])
    return total
