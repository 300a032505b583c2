"""Selected entries of G = leftᵀ right, left (M, rows) and right (M, columns), in plain PyTorch, in chunks of bounded size.

The methods are those of :mod:`fulgurite.kernels.sparse_plan`. Sums over M run in float32 (float64 for float64 operands);
nothing larger than a chunk is alive beside the operands.
"""

from __future__ import annotations

from itertools import pairwise

import torch

from fulgurite.kernels.backend import current_backend, resolve
from fulgurite.kernels.sparse_plan import SparsePlan

__all__ = ["by_method", "keeps_few", "narrowed", "selected_entries"]

# Tokens that sampled products handle at a time: the float32 copies of a chunk stay in the cache.
TOKENS = 512
# A layer keeps only the columns of x that its scalars need if they are at most this share. Several layers often read one x,
# which is kept once for all of them; beyond this share their copies would take more.
FEW = 0.125


def keeps_few(ids: torch.Tensor | None, width: int) -> bool:
    """Whether a layer should keep the columns ``ids`` of its (M, width) input instead of the input."""
    return ids is not None and ids.shape[0] <= FEW * width


def narrowed(side: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """The columns ``ids`` of (M, C), unless they were taken already; all for None."""
    return side if ids is None or side.shape[1] == ids.shape[0] else side.index_select(1, ids)


def selected_entries(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan) -> torch.Tensor:
    """(n,) float32 or float64: the entries of leftᵀ right at ``plan.index``.

    Args:
        left: (M, rows), or (M, rows taking part).
        right: (M, columns), or (M, columns taking part); left's dtype.
        plan: the pattern.
    """
    n = plan.columns.shape[0]
    if not n or not left.shape[0]:
        return left.new_zeros(n, dtype=torch.promote_types(left.dtype, torch.float32))
    left, right = narrowed(left, plan.row_ids), narrowed(right, plan.column_ids)
    method = plan.method(left.dtype)
    triton = resolve("sparse_delta_gradient", left, right)
    if triton is not None and (method == "union" or current_backend() == "triton"):
        return triton(left, right, plan)
    return by_method(left, right, plan, "dense" if method == "union" else method)


def by_method(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan, method: str) -> torch.Tensor:
    """The same by one of "dots", "sampled" (CPU) and "dense", of operands that are narrowed already."""
    wide = torch.promote_types(left.dtype, torch.float32)
    if method == "dots":
        rows = _rows(plan, 0, plan.columns.shape[0], 0, plan.size[0])
        return (left.index_select(1, rows).to(wide) * right.index_select(1, plan.columns).to(wide)).sum(0)
    return _sampled(left, right, plan) if method == "sampled" else _dense(left, right, plan, wide)


def _rows(plan: SparsePlan, first: int, last: int, low: int, high: int) -> torch.Tensor:
    """Rows, counted from ``low``, of the entries first..last, which are those of the rows low..high; without synchronising."""
    return torch.repeat_interleave(plan.starts[low : high + 1].diff(), output_size=last - first)


def _sampled(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan) -> torch.Tensor:
    # torch.compile cannot trace CSR tensors; an operator costs more per call than the function, so that eager calls skip it.
    compute = _sampled_op if torch.compiler.is_compiling() else _sampled_products
    return compute(left, right, plan.starts, plan.columns)


def _sampled_products(
    left: torch.Tensor, right: torch.Tensor, starts: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    wide = torch.promote_types(left.dtype, torch.float32)
    total = left.new_zeros(columns.shape[0], dtype=wide)
    size = (left.shape[1], right.shape[1])
    for first in range(0, left.shape[0], TOKENS):
        mine = left[first : first + TOKENS].to(wide).t()
        other = right[first : first + TOKENS].to(wide)
        pattern = torch.sparse_csr_tensor(starts, columns, total, size, check_invariants=False)
        total = torch.sparse.sampled_addmm(pattern, mine, other, beta=1.0).values()
    return total


_sampled_op = torch.library.custom_op(
    "fulgurite::sampled_entries",
    _sampled_products,
    mutates_args=(),
    schema="(Tensor left, Tensor right, Tensor starts, Tensor columns) -> Tensor",
)


@_sampled_op.register_fake
def _(left, right, starts, columns):  # type: ignore[no-untyped-def]
    return left.new_empty(columns.shape[0], dtype=torch.promote_types(left.dtype, torch.float32))


def _dense(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan, wide: torch.dtype) -> torch.Tensor:
    """The product, a chunk of rows at a time; products of half precision are rounded to it, as a dense gradient would be."""
    columns, height = right.shape[1], plan.height
    total = left.new_empty(plan.columns.shape[0], dtype=wide)
    whole = plan.row_ids is None and plan.column_ids is None
    for number, (first, last) in enumerate(pairwise(plan.bounds)):
        if last == first:
            continue
        low, high = number * height, min((number + 1) * height, plan.size[0])
        chunk = left[:, low:high].t() @ right
        if whole:
            places = plan.index[first:last] - low * columns
        else:
            places = _rows(plan, first, last, low, high) * columns + plan.columns[first:last]
        total[first:last] = chunk.view(-1).index_select(0, places)
    return total
