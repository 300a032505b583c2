"""Device functions that the Triton kernels of low-rank layers share: products of skinny tiles, rounding, dropout by seed.

Dropout. Element (m, c) of the input is kept iff its 16 random bits are below ``threshold`` = round((1 − p) · 2¹⁶); they are
half a word of Philox4x32 with the counter (c // 8, m) and the layer's seed as key. A mask is therefore a function of
seed, row and column alone: every kernel draws its own tile of it, whatever its tile sizes, and none is stored. The scale is
2¹⁶ / threshold, so that the expectation is exact although p is rounded to a multiple of 2⁻¹⁶.

Rounding. In Triton's interpreter a bf16 tile is an integer array and arithmetic on it gives nonsense without an error, and
its cast from float32 truncates. ``INTERPRETED`` therefore widens values right after each load, feeds ``tl.dot``
with float32 values that were rounded to the input's dtype, and rounds to nearest even by hand. On a GPU none of it is compiled.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

__all__ = [
    "HIP",
    "INTERPRETED",
    "dropout_tile",
    "matmul_operand",
    "precision",
    "rounded",
    "skinny_dot",
    "stages_on",
]

# AMD: a workgroup has 64 KiB of local memory, against 164 KiB of shared memory on sm_80 and 228 on sm_90.
HIP = torch.version.hip is not None

# Philox4x32 passes BigCrush from 7 rounds on (Salmon et al. 2011, table 2); the usual 10 are margin for the same bits at 1.4
# times the integer work, which on a memory-bound pass would show.
PHILOX_ROUNDS = tl.constexpr(7)
# 16 random bits an element: one Philox call (128 bits) serves 8 neighbouring columns.
COLUMNS_PER_CALL = tl.constexpr(8)


@triton.jit
def rounded(value, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """A float32 tile rounded to ``DTYPE``, to nearest even also in the interpreter."""
    if INTERPRETED and tl.bfloat16 == DTYPE:
        bits = value.to(tl.uint32, bitcast=True)
        odd = (bits >> 16) & 1
        even = ((bits + odd + 0x7FFF) >> 16) << 16
        value = tl.where(value == value, even.to(tl.float32, bitcast=True), value)
    return value.to(DTYPE)


@triton.jit
def matmul_operand(value, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """A tile as ``tl.dot`` wants it: rounded to ``DTYPE``, and in the interpreter widened to float32 again."""
    if value.dtype != DTYPE:
        value = rounded(value.to(tl.float32), DTYPE, INTERPRETED)
    if INTERPRETED:
        value = value.to(tl.float32)
    return value


@triton.jit
def dropout_tile(seed_ptr, rows, first_column, threshold, scale, COLUMNS: tl.constexpr):
    """float32 (len(rows), COLUMNS) of 0 or ``scale`` for the columns from ``first_column``, a multiple of 8."""
    seed = tl.load(seed_ptr)
    groups = first_column // COLUMNS_PER_CALL + tl.arange(0, COLUMNS // COLUMNS_PER_CALL)
    column = (groups[None, :] + tl.zeros_like(rows)[:, None]).to(tl.int32)
    row = (rows[:, None] + tl.zeros_like(groups)[None, :]).to(tl.int32)
    none = tl.zeros_like(row)
    w0, w1, w2, w3 = tl.philox(seed, column, row, none, none, PHILOX_ROUNDS)
    words = tl.join(tl.join(w0, w1), tl.join(w2, w3))
    bits = tl.join(words & 0xFFFF, words >> 16).to(tl.int32)
    bits = tl.reshape(bits, (bits.shape[0], COLUMNS))
    return tl.where(bits < threshold, scale, 0.0)


@triton.jit
def skinny_dot(
    src_ptr, src_row, src_column, factor_ptr, factor_column, factor_rank, rows, row_count, column_count, rank,
    seed_ptr, threshold, scale, DROPOUT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_C: tl.constexpr, RANK: tl.constexpr,
    PRECISION: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """float32 (BLOCK_M, RANK): Σ_c drop(src)[m, c] · factor[c, j], the factor rounded to src's dtype; ranks ≥ rank give 0."""
    dtype: tl.constexpr = src_ptr.dtype.element_ty
    offsets = tl.arange(0, BLOCK_C)
    ranks = tl.arange(0, RANK)
    row_mask = (rows < row_count)[:, None]
    rank_mask = (ranks < rank)[None, :]
    src_rows = src_ptr + rows.to(tl.int64)[:, None] * src_row
    factor_ranks = factor_ptr + ranks.to(tl.int64)[None, :] * factor_rank
    acc = tl.zeros((BLOCK_M, RANK), tl.float32)
    for first in range(0, column_count, BLOCK_C):
        columns = first + offsets
        column_mask = columns < column_count
        wide = columns.to(tl.int64)
        src = tl.load(src_rows + wide[None, :] * src_column, row_mask & column_mask[None, :], other=0.0)
        factor = tl.load(factor_ranks + wide[:, None] * factor_column, column_mask[:, None] & rank_mask, other=0.0)
        if DROPOUT:
            src = src.to(tl.float32) * dropout_tile(seed_ptr, rows, first, threshold, scale, BLOCK_C)
        acc = tl.dot(
            matmul_operand(src, dtype, INTERPRETED),
            matmul_operand(factor, dtype, INTERPRETED),
            acc,
            input_precision=PRECISION,
        )
    return acc


# The interpreter runs the kernels on the CPU (TRITON_INTERPRET=1 when they are imported).
INTERPRETED = not isinstance(skinny_dot, triton.JITFunction)


def precision(dtype: torch.dtype) -> str:
    """``input_precision`` of tl.dot: float32 products follow PyTorch's setting for CUDA, and are exact on other devices."""
    if dtype != torch.float32 or INTERPRETED or torch.version.hip is not None:
        return "ieee"
    matmul: Any = torch.backends.cuda.matmul
    try:  # the newer of the two settings; PyTorch refuses to read the older one once the newer was written
        return "tf32" if matmul.fp32_precision == "tf32" else "ieee"
    except AttributeError:
        return "tf32" if matmul.allow_tf32 else "ieee"


def device_of(tensor: torch.Tensor) -> AbstractContextManager[Any]:
    """Make the tensor's device the current one: Triton launches there."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


def stages_on(stages: int) -> int:
    """Stages of the load pipeline that fit."""
    return min(stages, 3) if HIP else stages
