"""The plan of one weight's trained scalars: where they lie, prepared once, and the cheapest method for their gradient.

The gradient consists of n selected entries of a (rows, columns) matrix G = leftᵀ right, left (M, rows) and right (M, columns).
There are four methods:

* ``dots``: both columns of every entry are gathered and multiplied, n · M numbers (for a few dozen scalars);
* ``sampled``: n dot products over the entries' compressed sparse rows (``torch.sparse.sampled_addmm``; CPU);
* ``union``: for every 64 rows one product with the columns that any of these rows selected (Triton);
* ``dense``: the whole product in chunks of rows, out of which the entries are picked; one chunk is in memory at a time.

If many rows and columns hold no entry, they are left out first: a mask that lies in few rows and columns (clustered) becomes one
small dense product. The choice of the method is a function of density, rows, columns, dtype and device.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property

import torch

__all__ = [
    "METHODS",
    "UNION_ROWS",
    "SparsePlan",
    "UnionColumns",
    "check_positions",
    "plan_sparse_delta",
    "union_columns",
]

METHODS = ("dots", "sampled", "union", "dense")
# The figures below are read off benchmarks/results/sparse_gradient_*.json (python -m benchmarks.run sparse_gradient).
# Entries up to which gathering two columns for each is cheaper than anything that has to be set up.
MOST_DOTS = 32
# A side of which at most this share is selected is cut down to that before the product.
COMPACT_UP_TO = 0.5
# Density (after that) up to which n dot products beat the dense product on the CPU. In half precision the dense product is
# about four times as fast, while the dot products are float32's.
SAMPLED_UP_TO = {torch.float64: 0.25, torch.float32: 0.25, torch.bfloat16: 0.04, torch.float16: 0.04}
# Density up to which the union of columns beats the dense product on a GPU (an H200, 8192 tokens, 4096²). Exact float32 products
# take so long in the union's small tiles that it has to leave most of them out.
UNION_UP_TO = {torch.bfloat16: 0.005, torch.float16: 0.005, torch.float32: 0.0015}
# Numbers in a chunk of the dense product: 4 MiB of float32 on the CPU, 8 MiB of bfloat16 on a GPU, which a smaller product
# does not fill (1024 × 4096 are 128 tiles of 128 × 256, about one for each of 132 multiprocessors).
CHUNK_NUMBERS, CHUNK_NUMBERS_GPU = 1 << 20, 1 << 22
# Rows that share a union of columns. A bit of an int64 stands for each.
UNION_ROWS = 64


@dataclass(frozen=True, eq=False)
class UnionColumns:
    """The pattern as the union kernel reads it: per block of 64 rows the columns that any of them selected, ascending.

    Attributes:
        starts: int32 (blocks + 1,), where each block's columns begin.
        columns: int32 (u,), the columns, block by block.
        bits: int64 (u,), bit r is set where row r of the block selected the column.
        first: int32 (u,), how many entries stand before this column's, in the order block, column, row.
        entries: int32 (n,), for each place in that order the entry's place in the plan's own (row, column).
        widest: the largest number of columns of a block.
    """

    starts: torch.Tensor
    columns: torch.Tensor
    bits: torch.Tensor
    first: torch.Tensor
    entries: torch.Tensor
    widest: int


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """The pattern of one weight's trained scalars; made by :func:`plan_sparse_delta`, held by the layer, never changed.

    Attributes:
        index: the (n,) int64 positions that it was made for.
        shape: (rows, columns) of the stored matrix.
        row_ids: int64, the rows that take part in the product, or None for all.
        column_ids: the same for columns.
        starts: int32 (rows taking part + 1,), where each row's entries begin.
        columns: int32 (n,), each entry's column among those that take part.
        height: rows of a chunk of the dense product.
        bounds: where each chunk's entries begin, and n.
        version: version counter of ``index`` when the plan was made.
    """

    index: torch.Tensor
    shape: tuple[int, int]
    row_ids: torch.Tensor | None
    column_ids: torch.Tensor | None
    starts: torch.Tensor
    columns: torch.Tensor
    height: int
    bounds: tuple[int, ...]
    version: int

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) that take part in the product."""
        rows = self.shape[0] if self.row_ids is None else self.row_ids.shape[0]
        return rows, self.shape[1] if self.column_ids is None else self.column_ids.shape[0]

    @property
    def density(self) -> float:
        """Share of entries in what takes part in the product."""
        return self.columns.shape[0] / max(1, self.size[0] * self.size[1])

    def fits(self, index: torch.Tensor, shape: tuple[int, ...]) -> bool:
        """Whether it was made for these positions, unchanged since, in a matrix of this shape."""
        same = index is self.index or (index.data_ptr() == self.index.data_ptr() and index.shape == self.index.shape)
        return same and index._version == self.version and tuple(shape) == self.shape

    def method(self, dtype: torch.dtype) -> str:
        """What is cheapest for operands of this dtype where the index lies: one of METHODS ("union" where Triton runs)."""
        if self.columns.shape[0] <= MOST_DOTS:
            return "dots"
        if self.index.device.type == "cpu":
            return "sampled" if self.density <= SAMPLED_UP_TO.get(dtype, 0.0) else "dense"
        return "union" if self.density <= UNION_UP_TO.get(dtype, 0.0) else "dense"

    @cached_property
    def union(self) -> UnionColumns:
        """The pattern as Triton's kernel reads it; made at first use and kept with the plan."""
        return union_columns(self.starts, self.columns, self.size[1])


def plan_sparse_delta(index: torch.Tensor, shape: tuple[int, ...]) -> SparsePlan:
    """Prepare the gradient of the scalars at ``index`` of a weight; once per layer and mask, then pass it to the operator.

    It keeps 12 bytes for each entry (of which ``index`` itself is 8) and 4 for each row; Triton's form takes up to 24 more.

    Args:
        index: flat positions in the stored layout, (n,) int64, sorted and unique.
        shape: of the stored weight, (rows, columns).

    Raises:
        ValueError: positions that are not sorted, repeat themselves or lie outside; a weight that is no matrix.
    """
    if len(shape) != 2:
        raise ValueError(f"plan_sparse_delta: a weight of shape {tuple(shape)}; only matrices have a plan.")
    rows, columns = int(shape[0]), int(shape[1])
    check_positions("plan_sparse_delta", index, rows * columns)
    row_ids, row, rows = _compacted(index // max(columns, 1), rows)
    column_ids, column, columns = _compacted(index % max(columns, 1), columns)
    starts = torch.zeros(rows + 1, dtype=torch.int32, device=index.device)
    starts[1:] = torch.bincount(row, minlength=rows).cumsum(0)
    height = _chunk_height(rows, columns, index.device.type)
    edges = torch.arange(0, rows + height, height, device=index.device).clamp_(max=rows)
    if index.device.type == "cpu":
        _silence_csr_notice()
    return SparsePlan(
        index,
        (int(shape[0]), int(shape[1])),
        row_ids,
        column_ids,
        starts,
        column.to(torch.int32),
        height,
        tuple(starts[edges].tolist()),
        index._version,
    )


def _chunk_height(rows: int, columns: int, device: str) -> int:
    """Rows of a chunk of the dense product; on a GPU a multiple of its tile's 128."""
    if device == "cpu":
        return max(1, min(rows, CHUNK_NUMBERS // max(1, columns)))
    return max(1, min(rows, max(1, CHUNK_NUMBERS_GPU // max(1, columns) // 128) * 128))


def check_positions(name: str, index: torch.Tensor, numel: int) -> None:
    """Raise a ValueError unless ``index`` is (n,) int64, sorted, unique and inside ``numel`` (looks at the values)."""
    if index.dim() != 1 or index.dtype != torch.int64:
        raise ValueError(f"{name}: index is {index.dtype} {tuple(index.shape)}; it must be int64 of shape (n,).")
    if not index.numel():
        return
    if index.numel() > 1 and not bool((index[1:] > index[:-1]).all()):
        raise ValueError(f"{name}: index is not strictly increasing; sort it and remove repeated positions.")
    first, last = int(index[0]), int(index[-1])
    if first < 0 or last >= numel:
        raise ValueError(f"{name}: index reaches from {first} to {last}; the weight has {numel} numbers.")


def _compacted(ids: torch.Tensor, count: int) -> tuple[torch.Tensor | None, torch.Tensor, int]:
    """(the ids that occur, or None for all; each entry's place among them; how many take part)."""
    used = torch.unique(ids)
    if used.numel() > COMPACT_UP_TO * count:
        return None, ids, count
    return used, torch.searchsorted(used, ids), used.numel()


def union_columns(starts: torch.Tensor, columns: torch.Tensor, width: int) -> UnionColumns:
    """The pattern of compressed sparse rows as the union kernel reads it; ``width`` columns in all."""
    device, n, rows = columns.device, columns.shape[0], starts.shape[0] - 1
    row = torch.repeat_interleave(starts.diff(), output_size=n).long()
    width = max(1, width)
    blocks = -(-rows // UNION_ROWS)
    # Block and column of each entry as one number; rows ascend within equal ones, because the sort is stable.
    key, by_column = torch.sort((row // UNION_ROWS) * width + columns, stable=True)
    distinct, place, entries = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    bits = torch.zeros(distinct.numel(), dtype=torch.int64, device=device)
    # Every bit of a column is set once, so that their sum is their union.
    bits.index_add_(0, place, torch.ones_like(row) << (row[by_column] % UNION_ROWS))
    edges = torch.searchsorted(distinct, torch.arange(blocks + 1, device=device) * width)
    widest = int(edges.diff().max()) if blocks else 0
    return UnionColumns(
        edges.to(torch.int32),
        (distinct % width).to(torch.int32),
        bits,
        (entries.cumsum(0) - entries).to(torch.int32),
        by_column.to(torch.int32),
        widest,
    )


def _silence_csr_notice() -> None:
    """PyTorch says once per process that CSR tensors are in beta; nobody who trains an adapter asked for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        starts, none = torch.zeros(2, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        torch.sparse_csr_tensor(starts, none, torch.empty(0), (1, 1), check_invariants=False)
