"""Tile sizes of the low-rank kernels: rules that look at shapes only, not at trials or at the device (except for AMD's and sm_100).

So the order of every sum, and with it every bit of a result, depends on shapes alone, and the first training step is not spent on
trials. ``python -m benchmarks.aot`` compiles every configuration of these rules for GPUs that need not be there; none may spill.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from fulgurite.kernels.triton_common import HIP, stages_on

__all__ = [
    "GATE_PARTS_AT_ONCE",
    "MAX_RANK",
    "MIN_RANK_TILE",
    "Tile",
    "expand_tile",
    "outer_tile",
    "rank_step",
    "rank_tile",
    "reduce_tile",
    "shrink_tile",
    "split_rows",
]

# Whether Triton compiles for sm_100 or newer, where its larger tiles were seen to spill; None looks at the current device.
SM_100: bool | None = None
# Above, the accumulators of a 64-row tile alone would fill the register file, and a low-rank branch is no longer skinny.
MAX_RANK = 128
# tl.dot needs 16 columns at least: the tensor cores' tile.
MIN_RANK_TILE = 16
# Programs that the two reductions over rows aim at: about four per multiprocessor of today's largest devices (132 to 304).
PROGRAMS = 512
# Beyond 16 ranges of rows the partial sums cost more traffic than further programs hide.
MAX_PARTS = 16
MIN_ROWS_PER_PART = 256
# Partial sums of the gate's gradient that are added at once.
GATE_PARTS_AT_ONCE = 64


class Tile(NamedTuple):
    """Rows and columns of a program's tile, warps of a program, stages of its load pipeline."""

    rows: int
    columns: int
    warps: int
    stages: int


def _spills_sooner() -> bool:
    return _is_sm_100() if SM_100 is None else SM_100


@functools.cache
def _is_sm_100() -> bool:
    return not HIP and torch.cuda.is_available() and torch.cuda.get_device_capability()[0] >= 10


def rank_tile(rank: int) -> int:
    """Columns that ranks are padded to: 16, 32, 64 or 128."""
    return max(MIN_RANK_TILE, 1 << (rank - 1).bit_length())


def shrink_tile(rows: int, ranks: int, itemsize: int, dropout: bool = False) -> Tile:
    """Tile of shrink and project. Fewer rows give few-row inputs enough programs to fill a device of about 130 multiprocessors."""
    if ranks <= 32:
        height = 64 if rows >= 8192 else 32 if rows >= 2048 else 16
    else:  # 32 rows and 64 ranks of bf16 were seen to spill on sm_90
        height = 64 if rows >= 4096 and not (_spills_sooner() and ranks == 64 and itemsize == 4) else 16
    # Bytes of a row at a time: fewer where the factor's tile or the random bits want registers and shared memory.
    wide = itemsize == 2 and not dropout and not HIP
    width = 256 if ranks <= (64 if wide else 16) else 128 if ranks <= 64 else 64
    if dropout:
        width = max(64, width // 2)
    elif HIP and itemsize == 2 and ranks in (16, 64):
        width //= 2  # 72 KiB were needed, 64 are there
    elif _spills_sooner() and itemsize == 2 and ranks == 64:
        width //= 2
    return Tile(height, width // itemsize, 4, stages_on(3 if wide and ranks > 16 else 4))


def rank_step(ranks: int, itemsize: int) -> int:
    """Ranks that expand multiplies at once: up to 64 of half precision; more, or more than 16 of float32, were seen to spill."""
    return ranks if itemsize == 2 and ranks <= 64 and not HIP else 16


def expand_tile(itemsize: int) -> Tile:
    """Tile of expand, which writes: the accumulator decides, 64 (float32: 32) registers a thread at 4 warps."""
    return Tile(64, 128 if itemsize == 2 else 64, 4, 1)


def outer_tile(ranks: int, itemsize: int) -> Tile:
    """Tile of outer: 64 rows of 128 or 256 bytes at a time, in float32 32 rows; 64 bytes where 128 ranks of it would spill."""
    if itemsize == 2:
        narrow = _spills_sooner()
        wide = 16 < ranks <= (32 if narrow else 64) and not HIP
        return Tile(64, 128 if wide else 32 if narrow and ranks > 64 else 64, 4, 3 if ranks <= 64 else 2)
    return Tile(32, 32 if ranks <= 64 else 16, 4, 3 if ranks <= 64 else 2)


def reduce_tile(ranks: int) -> Tile:
    """Tile of reduce: 2048 sums a program, 16 a thread."""
    return Tile(ranks, max(16, 2048 // ranks), 4, 1)


def split_rows(rows: int, blocks: int, height: int) -> tuple[int, int]:
    """(number of ranges, rows per range) into which outer cuts the rows, given its blocks of columns and its tile's rows."""
    wanted = max(1, min(MAX_PARTS, PROGRAMS // max(1, blocks), rows // MIN_ROWS_PER_PART))
    parts = 1 << (wanted.bit_length() - 1)  # a constant of the compiled kernel: five values, not sixteen
    return parts, -(-rows // (parts * height)) * height
