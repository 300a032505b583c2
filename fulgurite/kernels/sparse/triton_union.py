"""Selected entries of G = leftᵀ right in Triton: for every 64 rows one product with the columns that any of these rows selected.

left (M, rows) is read where it lies; right (M, columns) is transposed a chunk of tokens at a time, so that a gathered column
is one contiguous run. A program multiplies 64 rows of leftᵀ with some of the columns that they selected and writes the selected
entries of its tile. One word per column says which rows selected it, one bit per row; the place of an entry in the list, which
is ordered by block, column and row, is the number of entries before its column plus the number of bits below its own. No tensor
of the weight's size exists, every sum has a fixed order, and no two programs write to the same number. Sparse uniform masks let
64 rows share so few columns that this beats the dense product (UNION_UP_TO in :mod:`fulgurite.kernels.sparse.plan`).
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from fulgurite.kernels.sparse.plan import UNION_ROWS, SparsePlan, UnionColumns, union_columns
from fulgurite.kernels.triton_common import matmul_operand, precision, stages_on

__all__ = [
    "launch",
    "refusal",
    "sparse_delta_gradient",
    "too_small",
    "transpose_kernel",
    "union_kernel",
    "union_tile",
]

INTERPRETED = not isinstance(matmul_operand, triton.JITFunction)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Bytes of the transposed chunk of tokens: each further chunk costs two launches (on an H200 8192 × 4096 in bf16 took 108 µs at
# once, 138 in four chunks).
CHUNK_BYTES = 64 << 20
# Multiplications of the dense product (tokens × rows × columns) from which ``auto`` takes these kernels: the
# step of a 768-wide Llama, whose layers have up to 2^33.6, was no faster with them.
WORTH_IT = 1 << 34
# Programs that a launch aims at; with fewer blocks of rows the tokens are cut into up to MAX_PARTS ranges.
PROGRAMS, MAX_PARTS, MIN_TOKENS_PER_PART = 256, 8, 128
# Tokens and columns of a program's tile of the transposition, and its warps.
TRANSPOSED_TOKENS, TRANSPOSED_COLUMNS, TRANSPOSING_WARPS = 64, 64, 4


class UnionTile(NamedTuple):
    """Gathered columns and tokens of a program's tile, its warps and the stages of its load pipeline."""

    columns: int
    tokens: int
    warps: int
    stages: int


def union_tile(widest: int, itemsize: int) -> UnionTile:
    """The tile for blocks with at most ``widest`` columns: no more than they have, 16 at least (the tensor cores' tile).

    64 columns of exact float32 products were seen to spill on sm_80.
    """
    columns = max(16, min(64 if itemsize == 2 else 32, 1 << max(0, widest - 1).bit_length()))
    return UnionTile(columns, 128 // itemsize, 4, stages_on(4 if itemsize == 2 else 3))


@triton.jit
def _bits_below(word, bit):
    """How many of the bits 0 … bit − 1 of ``word`` are set (int64; bit ≤ 63, so that no sign enters)."""
    rest = word & ((tl.full(bit.shape, 1, tl.int64) << bit) - 1)
    rest = rest - ((rest >> 1) & 0x5555555555555555)
    rest = (rest & 0x3333333333333333) + ((rest >> 2) & 0x3333333333333333)
    rest = (rest + (rest >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((rest * 0x0101010101010101) >> 56).to(tl.int32)


@triton.jit
def transpose_kernel(
    source_ptr,
    source_token,
    source_column,
    out_ptr,
    out_column,
    token_count,
    column_count,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Program (block of tokens, block of columns): (tokens, columns) -> (columns, tokens), ``out_column`` numbers a column."""
    tokens = tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    mask = (tokens < token_count)[:, None] & (columns < column_count)[None, :]
    far, wide = tokens.to(tl.int64)[:, None], columns.to(tl.int64)[None, :]
    tile = tl.load(source_ptr + far * source_token + wide * source_column, mask, other=0.0)
    tl.store(out_ptr + wide * out_column + far, tile, mask)


@triton.jit(do_not_specialize=["begun"])
def union_kernel(
    left_ptr,
    left_token,
    left_row,
    right_ptr,
    right_column,
    starts_ptr,
    columns_ptr,
    bits_ptr,
    first_ptr,
    entries_ptr,
    out_ptr,
    n,
    row_count,
    token_count,
    tokens_per_part,
    begun,
    BLOCK_R: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """Program (block of rows, tile of its columns, range of tokens) writes its entries to ``out`` (parts, n), float32.

    With ``begun`` > 0 it adds them to what stands there.
    """
    dtype: tl.constexpr = left_ptr.dtype.element_ty
    block, part = tl.program_id(0), tl.program_id(2)
    begin = tl.load(starts_ptr + block) + tl.program_id(1) * BLOCK_U
    end = tl.load(starts_ptr + block + 1)
    if begin < end:
        places = begin + tl.arange(0, BLOCK_U)
        known = places < end
        columns = tl.load(columns_ptr + places, known, other=0).to(tl.int64)
        locals = tl.arange(0, BLOCK_R)
        rows = block * BLOCK_R + locals
        row_mask = (rows < row_count)[:, None]
        left_rows = left_ptr + rows.to(tl.int64)[:, None] * left_row
        right_columns = right_ptr + columns[None, :] * right_column
        acc = tl.zeros((BLOCK_R, BLOCK_U), tl.float32)
        last = tl.minimum(token_count, (part + 1) * tokens_per_part)
        for token in range(part * tokens_per_part, last, BLOCK_M):
            tokens = token + tl.arange(0, BLOCK_M)
            inside = tokens < last
            wide = tokens.to(tl.int64)
            left = tl.load(left_rows + wide[None, :] * left_token, row_mask & inside[None, :], other=0.0)
            right = tl.load(right_columns + wide[:, None], inside[:, None] & known[None, :], other=0.0)
            acc = tl.dot(
                matmul_operand(left, dtype, INTERPRETED),
                matmul_operand(right, dtype, INTERPRETED),
                acc,
                input_precision=PRECISION,
            )
        bit = locals.to(tl.int64)[:, None] + tl.zeros((BLOCK_R, BLOCK_U), tl.int64)
        word = tl.load(bits_ptr + places, known, other=0)[None, :] + tl.zeros((BLOCK_R, BLOCK_U), tl.int64)
        chosen = ((word >> bit) & 1) == 1
        slots = tl.load(first_ptr + places, known, other=0)[None, :] + _bits_below(word, bit)
        out = out_ptr + part.to(tl.int64) * n + tl.load(entries_ptr + slots, chosen, other=0)
        earlier = chosen & (tl.zeros((BLOCK_R, BLOCK_U), tl.int32) + begun > 0)
        tl.store(out, tl.load(out, earlier, other=0.0) + acc, chosen)


def refusal(left: torch.Tensor, right: torch.Tensor) -> str | None:
    """Why these operands cannot be multiplied here (what was given; what is allowed), or None."""
    if left.dtype not in DTYPES or right.dtype != left.dtype:
        return f"the operands are {left.dtype} and {right.dtype}; the Triton kernel takes bfloat16, float16 and float32"
    return None


def too_small(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether the dense product is so short that launches decide, of which it has fewer."""
    return left.numel() * right.shape[1] < WORTH_IT


def sparse_delta_gradient(left: torch.Tensor, right: torch.Tensor, plan: SparsePlan) -> torch.Tensor:
    """(n,) float32: the plan's entries of leftᵀ right; left (M, rows taking part), right (M, columns taking part)."""
    if torch.compiler.is_compiling():
        known = plan.__dict__.get("union")
        tensors = [] if known is None else [known.starts, known.columns, known.bits, known.first, known.entries]
        return _entries_op(left, right, plan.starts, plan.columns, tensors, 0 if known is None else known.widest)
    return launch(left, right, plan.union)


def launch(left: torch.Tensor, right: torch.Tensor, union: UnionColumns) -> torch.Tensor:
    """The launches, two for each chunk of tokens."""
    (tokens, rows), width = left.shape, right.shape[1]
    n, blocks = union.entries.shape[0], union.starts.shape[0] - 1
    tile = union_tile(union.widest, left.itemsize)
    chunk = min(tokens, max(tile.tokens, CHUNK_BYTES // (width * left.itemsize)))
    chunk = triton.cdiv(chunk, 64) * 64
    tiles = triton.cdiv(union.widest, tile.columns)
    wanted = max(1, min(MAX_PARTS, PROGRAMS // max(1, blocks * tiles), min(chunk, tokens) // MIN_TOKENS_PER_PART))
    out = torch.empty((wanted, n), dtype=torch.float32, device=left.device)
    other = torch.empty((width, chunk), dtype=right.dtype, device=right.device)
    with torch.cuda.device(left.device) if left.is_cuda else nullcontext():
        for begin in range(0, tokens, chunk):
            mine, here = left[begin : begin + chunk], right[begin : begin + chunk]
            count = mine.shape[0]
            transpose_kernel[(triton.cdiv(count, TRANSPOSED_TOKENS), triton.cdiv(width, TRANSPOSED_COLUMNS))](
                here,
                *here.stride(),
                other,
                chunk,
                count,
                width,
                BLOCK_T=TRANSPOSED_TOKENS,
                BLOCK_C=TRANSPOSED_COLUMNS,
                num_warps=TRANSPOSING_WARPS,
            )
            union_kernel[(blocks, tiles, wanted)](
                mine,
                *mine.stride(),
                other,
                chunk,
                union.starts,
                union.columns,
                union.bits,
                union.first,
                union.entries,
                out,
                n,
                rows,
                count,
                triton.cdiv(count, wanted * tile.tokens) * tile.tokens,
                begin,
                BLOCK_R=UNION_ROWS,
                BLOCK_U=tile.columns,
                BLOCK_M=tile.tokens,
                PRECISION=precision(left.dtype),
                INTERPRETED=INTERPRETED,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
    return out[0] if wanted == 1 else out.sum(0)


@torch.library.custom_op(
    "fulgurite::union_entries",
    mutates_args=(),
    schema="(Tensor left, Tensor right, Tensor starts, Tensor columns, Tensor[] union, int widest) -> Tensor",
)
def _entries_op(left, right, starts, columns, union: list[Any], widest: int):  # type: ignore[no-untyped-def]
    if union:
        made, chosen, bits, first, entries = union
        known = UnionColumns(made, chosen, bits, first, entries, widest)
    else:
        known = union_columns(starts, columns, right.shape[1])
    return launch(left, right, known)


@_entries_op.register_fake
def _(left, right, starts, columns, union, widest):  # type: ignore[no-untyped-def]
    return left.new_empty(columns.shape[0], dtype=torch.float32)
