"""The row-wise passes of the gated low-rank linear layer as Triton kernels; the big products stay with the vendor's GEMM.

With x (M, K), dy (M, N), A (r, K), B (N, r), gate g (r), s the scaling, x̃ = drop(x), ranks padded to RANK columns:

    shrink      t = x̃ Aᵀ                                        one pass over x
    expand      y₀ = t (s·g·B)ᵀ + bias,  or  dx₀ = (v A) ⊙ mask   one write of y (dx), before ``addmm_`` accumulates onto it
    project     u = dy B (not stored),  v = s·g ⊙ u,  Σ_m u ⊙ t per block of rows        one pass over dy

The sums over rows are in :mod:`fulgurite.kernels.low_rank.triton_reductions`; the paper and the equations of the backward are in
:mod:`fulgurite.kernels.low_rank.gated_lora`. t and v have RANK columns, and columns beyond the rank are zero. t is kept in float32,
which is little memory beside x, and u is never rounded: the error of ∂g with bf16 inputs was 2e-7, where plain torch has 1.2e-3 to
3.4e-3 and a t in bf16 has 1.9e-3. Matrix products read t rounded to x's dtype.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import triton
import triton.language as tl

from fulgurite.kernels.triton_common import dropout_tile, matmul_operand, rounded, skinny_dot

__all__ = ["expand_kernel", "project_kernel", "shrink_kernel"]


@triton.jit(do_not_specialize=["threshold"])
def shrink_kernel(
    x_ptr, x_row, x_column, a_ptr, a_rank, a_column, t_ptr, M, K, rank,
    seed_ptr, threshold, scale, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, RANK: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """t (M, RANK) = drop(x) Aᵀ in float32; one program per BLOCK_M rows."""
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    t = skinny_dot(
        x_ptr,
        x_row,
        x_column,
        a_ptr,
        a_column,
        a_rank,
        rows,
        M,
        K,
        rank,
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
    places = rows.to(tl.int64)[:, None] * RANK + tl.arange(0, RANK)[None, :]
    tl.store(t_ptr + places, t, (rows < M)[:, None])


@triton.jit
def project_kernel(
    dy_ptr, dy_row, dy_column, b_ptr, b_row, b_rank, gate_ptr, t_ptr, v_ptr, gate_partial_ptr, M, N, rank, scaling,
    GATED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, RANK: tl.constexpr, ALIGNED: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """v (M, RANK) = s·g ⊙ (dy B) and, per block of rows, Σ_m u ⊙ t in float32; one program per BLOCK_M rows."""
    block = tl.program_id(0)
    rows = block * BLOCK_M + tl.arange(0, BLOCK_M)
    ranks = tl.arange(0, RANK)
    # Of arguments Triton sees multiples of 16 only: at rank 8 it loaded B number by number, and the pass took twice its time.
    b_row = (b_row // ALIGNED) * ALIGNED
    rank = (rank // ALIGNED) * ALIGNED
    u = skinny_dot(
        dy_ptr,
        dy_row,
        dy_column,
        b_ptr,
        b_row,
        b_rank,
        rows,
        M,
        N,
        rank,
        dy_ptr,
        0,
        0.0,
        False,
        BLOCK_M,
        BLOCK_C,
        RANK,
        PRECISION,
        INTERPRETED,
    )
    places = rows.to(tl.int64)[:, None] * RANK + ranks[None, :]
    mask = (rows < M)[:, None]
    v = u * scaling
    if GATED:
        t = tl.load(t_ptr + places, mask, other=0.0)
        tl.store(gate_partial_ptr + block.to(tl.int64) * RANK + ranks, tl.sum(u * t, axis=0))
        gate = tl.load(gate_ptr + ranks, ranks < rank, other=0.0).to(tl.float32)
        v = u * (gate * scaling)[None, :]
    tl.store(v_ptr + places, rounded(v, v_ptr.dtype.element_ty, INTERPRETED), mask)


@triton.jit(do_not_specialize=["threshold"])
def expand_kernel(
    low_ptr, factor_ptr, factor_column, factor_rank, gate_ptr, bias_ptr, out_ptr, M, C, rank, scaling,
    seed_ptr, threshold, scale, DROPOUT: tl.constexpr, GATED: tl.constexpr, BIASED: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, RANK: tl.constexpr, RANK_STEP: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """out (M, C) = low · (scaling·gate ⊙ factor) + bias, times the dropout mask; low (M, RANK), factor by strides (rank, C)."""
    dtype: tl.constexpr = out_ptr.dtype.element_ty
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    first = tl.program_id(1) * BLOCK_C
    columns = first + tl.arange(0, BLOCK_C)
    row_mask = (rows < M)[:, None]
    column_mask = columns < C
    low_rows = low_ptr + rows.to(tl.int64)[:, None] * RANK
    factor_columns = factor_ptr + columns.to(tl.int64)[None, :] * factor_column
    acc = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for start in range(0, RANK, RANK_STEP):
        ranks = start + tl.arange(0, RANK_STEP)
        rank_mask = ranks < rank
        low = tl.load(low_rows + ranks[None, :], row_mask, other=0.0)
        places = ranks.to(tl.int64)[:, None] * factor_rank
        factor = tl.load(factor_columns + places, rank_mask[:, None] & column_mask[None, :], other=0.0)
        factor = factor.to(tl.float32) * scaling
        if GATED:
            factor = factor * tl.load(gate_ptr + ranks, rank_mask, other=0.0).to(tl.float32)[:, None]
        acc = tl.dot(
            matmul_operand(low, dtype, INTERPRETED),
            matmul_operand(factor, dtype, INTERPRETED),
            acc,
            input_precision=PRECISION,
        )
    if BIASED:
        acc += tl.load(bias_ptr + columns, column_mask, other=0.0).to(tl.float32)[None, :]
    if DROPOUT:
        acc = acc * dropout_tile(seed_ptr, rows, first, threshold, scale, BLOCK_C)
    out = out_ptr + rows.to(tl.int64)[:, None] * C + columns[None, :]
    tl.store(out, rounded(acc, dtype, INTERPRETED), row_mask & column_mask[None, :])
