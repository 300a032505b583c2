"""The gradients of A, B and gate: sums over all rows, in two launches of fixed order and without atomics.

    outer       per range of rows: vᵀ x̃ and tᵀ dy, float32        one pass over x and one over dy, a single launch
    reduce      ∂A, ∂B = s·g ⊙ (·)ᵀ, ∂g: the ranges added in their order                a single launch

Every sum has one order, which depends on shapes alone: two runs agree bit for bit. Names and padding as in
:mod:`fulgurite.kernels.low_rank.triton_skinny`, which makes t, v and the gate's partial sums.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fulgurite.kernels.triton_common import dropout_tile, matmul_operand, rounded

__all__ = ["outer_kernel", "reduce_kernel"]


@triton.jit
def _outer_tile(
    src_ptr, src_row, src_column, low_ptr, partial_ptr, block, part, M, C, rows_per_part,
    seed_ptr, threshold, scale, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, RANK: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """partial[part] (RANK, C), columns of ``block``: Σ over the part's rows of low[m, j] · drop(src)[m, c]."""
    dtype: tl.constexpr = src_ptr.dtype.element_ty
    first = block * BLOCK_C
    columns = first + tl.arange(0, BLOCK_C)
    ranks = tl.arange(0, RANK)
    column_mask = columns < C
    src_columns = src_ptr + columns.to(tl.int64)[None, :] * src_column
    start = part * rows_per_part
    acc = tl.zeros((RANK, BLOCK_C), tl.float32)
    for offset in range(0, rows_per_part, BLOCK_M):
        rows = start + offset + tl.arange(0, BLOCK_M)
        row_mask = rows < M
        wide = rows.to(tl.int64)
        low = tl.load(low_ptr + wide[None, :] * RANK + ranks[:, None], row_mask[None, :], other=0.0)
        src = tl.load(src_columns + wide[:, None] * src_row, row_mask[:, None] & column_mask[None, :], other=0.0)
        if DROPOUT:
            src = src.to(tl.float32) * dropout_tile(seed_ptr, rows, first, threshold, scale, BLOCK_C)
        acc = tl.dot(
            matmul_operand(low, dtype, INTERPRETED),
            matmul_operand(src, dtype, INTERPRETED),
            acc,
            input_precision=PRECISION,
        )
    places = (part.to(tl.int64) * RANK + ranks.to(tl.int64)[:, None]) * C + columns[None, :]
    tl.store(partial_ptr + places, acc, column_mask[None, :])


@triton.jit(do_not_specialize=["a_blocks", "threshold"])
def outer_kernel(
    x_ptr, x_row, x_column, v_ptr, a_partial_ptr, K, dy_ptr, dy_row, dy_column, t_ptr, b_partial_ptr, N, M,
    rows_per_part, a_blocks,
    seed_ptr, threshold, scale, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, RANK: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """Partial sums of vᵀ x̃ (the first ``a_blocks`` blocks of columns) and of tᵀ dy (the rest), for one range of rows."""
    block = tl.program_id(0)
    part = tl.program_id(1)
    if block < a_blocks:
        _outer_tile(
            x_ptr,
            x_row,
            x_column,
            v_ptr,
            a_partial_ptr,
            block,
            part,
            M,
            K,
            rows_per_part,
            seed_ptr,
            threshold,
            scale,
            DROPOUT,
            BLOCK_M,
            BLOCK_C,
            RANK,
            PRECISION,
            INTERPRETED,
        )
    else:
        _outer_tile(
            dy_ptr,
            dy_row,
            dy_column,
            t_ptr,
            b_partial_ptr,
            block - a_blocks,
            part,
            M,
            N,
            rows_per_part,
            seed_ptr,
            threshold,
            scale,
            False,
            BLOCK_M,
            BLOCK_C,
            RANK,
            PRECISION,
            INTERPRETED,
        )


@triton.jit
def _sum_parts(partial_ptr, columns, C, rank, PARTS: tl.constexpr, RANK: tl.constexpr, BLOCK_C: tl.constexpr):
    """float32 (RANK, BLOCK_C): the parts added one after the other."""
    ranks = tl.arange(0, RANK)
    mask = (ranks < rank)[:, None] & (columns < C)[None, :]
    acc = tl.zeros((RANK, BLOCK_C), tl.float32)
    for part in tl.static_range(PARTS):
        places = (ranks.to(tl.int64) + part * RANK)[:, None] * C + columns[None, :]
        acc += tl.load(partial_ptr + places, mask, other=0.0)
    return acc


@triton.jit(do_not_specialize=["a_blocks", "b_blocks", "gate_parts"])
def reduce_kernel(
    a_partial_ptr, b_partial_ptr, gate_partial_ptr, gate_ptr, da_ptr, db_ptr, dgate_ptr, K, N, rank, scaling,
    a_blocks, b_blocks, gate_parts,
    GATED: tl.constexpr, PARTS: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_P: tl.constexpr, RANK: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """∂A (rank, K), ∂B (N, rank) and, in the last program, ∂g (rank) from their partial sums, each in its own dtype."""
    block = tl.program_id(0)
    ranks = tl.arange(0, RANK)
    rank_mask = ranks < rank
    if block < a_blocks:
        columns = block * BLOCK_C + tl.arange(0, BLOCK_C)
        da = _sum_parts(a_partial_ptr, columns, K, rank, PARTS, RANK, BLOCK_C)
        mask = rank_mask[:, None] & (columns < K)[None, :]
        places = ranks.to(tl.int64)[:, None] * K + columns[None, :]
        tl.store(da_ptr + places, rounded(da, da_ptr.dtype.element_ty, INTERPRETED), mask)
    elif block < a_blocks + b_blocks:
        columns = (block - a_blocks) * BLOCK_C + tl.arange(0, BLOCK_C)
        db = _sum_parts(b_partial_ptr, columns, N, rank, PARTS, RANK, BLOCK_C) * scaling
        if GATED:
            db = db * tl.load(gate_ptr + ranks, rank_mask, other=0.0).to(tl.float32)[:, None]
        mask = rank_mask[:, None] & (columns < N)[None, :]
        places = columns.to(tl.int64)[None, :] * rank + ranks[:, None]
        tl.store(db_ptr + places, rounded(db, db_ptr.dtype.element_ty, INTERPRETED), mask)
    elif GATED:
        acc = tl.zeros((RANK,), tl.float32)
        for first in range(0, gate_parts, BLOCK_P):
            parts = first + tl.arange(0, BLOCK_P)
            places = parts.to(tl.int64)[:, None] * RANK + ranks[None, :]
            acc += tl.sum(tl.load(gate_partial_ptr + places, (parts < gate_parts)[:, None], other=0.0), axis=0)
        tl.store(dgate_ptr + ranks, rounded(acc * scaling, dgate_ptr.dtype.element_ty, INTERPRETED), rank_mask)
