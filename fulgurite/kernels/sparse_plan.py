"""Where the trained scalars of one weight lie, prepared once, and which way of computing their gradient is the cheapest.

A gradient of n selected entries of a (rows, columns) matrix G = leftᵀ right, with left (M, rows) and right (M, columns), can be had

* ``dots``: both columns of every entry are gathered and multiplied, n · M numbers (a few dozen scalars);
* ``sampled``: n dot products over the entries' compressed sparse rows (``torch.sparse.sampled_addmm``; CPU);
* ``union``: per 64 rows one product with the columns that any of them selected (Triton);
* ``dense``: the product in chunks of rows, of which the entries are picked; one chunk is alive at a time.

Rows and columns without an entry are left out first where they are many: a mask that lies in few rows and columns (clustered)
is one small dense product. The choice is a function of density, rows, columns, dtype and device.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

__all__ = ["METHODS", "SparsePlan", "plan_sparse_delta"]

METHODS = ("dots", "sampled", "union", "dense")
# Entries up to which gathering two columns for each is cheaper than anything that has to be set up.
MOST_DOTS = 32
# A side whose selected rows (columns) are at most this share of all is compacted before the product.
COMPACT_BELOW = 0.75
# Density of the compacted matrix up to which n dot products beat the dense product on the CPU. In half precision the dense
# product is about four times as fast, while the dot products are float32's.
SAMPLED_UP_TO = {torch.float64: 0.2, torch.float32: 0.2, torch.bfloat16: 0.05, torch.float16: 0.05}
# Density up to which the union of columns beats the dense product on a GPU (arithmetic, not yet measured).
UNION_UP_TO = 0.005
# Numbers of a chunk of the dense product: 4 MB of float32.
CHUNK_NUMBERS = 1 << 20


@dataclass(frozen=True, eq=False)
class SparsePlan:
    """The pattern of one weight's trained scalars; made by :func:`plan_sparse_delta`, held by the layer, never changed.

    Attributes:
        index: the (n,) int64 positions that it was made for.
        shape: (rows, columns) of the stored matrix.
        row_ids: int64, the rows that take part in the product, or None for all.
        column_ids: the same for columns.
        starts: int64 (rows taking part + 1,), where each row's entries begin.
        columns: int64 (n,), each entry's column among those that take part.
        version: version counter of ``index`` when the plan was made.
    """

    index: torch.Tensor
    shape: tuple[int, int]
    row_ids: torch.Tensor | None
    column_ids: torch.Tensor | None
    starts: torch.Tensor
    columns: torch.Tensor
    version: int

    @property
    def size(self) -> tuple[int, int]:
        """(rows, columns) that take part in the product."""
        rows = self.shape[0] if self.row_ids is None else self.row_ids.numel()
        return rows, self.shape[1] if self.column_ids is None else self.column_ids.numel()

    def fits(self, index: torch.Tensor, shape: tuple[int, ...]) -> bool:
        """Whether it was made for these positions, unchanged since, in a matrix of this shape."""
        same = index is self.index or (index.data_ptr() == self.index.data_ptr() and index.shape == self.index.shape)
        return same and index._version == self.version and tuple(shape) == self.shape

    def method(self, dtype: torch.dtype) -> str:
        """One of METHODS for operands of this dtype on the index's device, PyTorch only (``union`` needs Triton)."""
        n, (rows, columns) = self.index.numel(), self.size
        if n <= MOST_DOTS:
            return "dots"
        density = n / (rows * columns)
        return "sampled" if self.index.device.type == "cpu" and density <= SAMPLED_UP_TO.get(dtype, 0) else "dense"


def plan_sparse_delta(index: torch.Tensor, shape: tuple[int, ...]) -> SparsePlan:
    """Prepare the gradient of the scalars at ``index`` of a weight; once per layer and mask, then pass it to the operator.

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
    n = index.numel()
    row, column = index // max(columns, 1), index % max(columns, 1)
    row_ids, row, rows = _compacted(row, rows)
    column_ids, column, columns = _compacted(column, columns)
    starts = torch.zeros(rows + 1, dtype=torch.int64, device=index.device)
    if n:
        torch.cumsum(torch.bincount(row, minlength=rows), 0, out=starts[1:])
    if index.device.type == "cpu":
        _silence_csr_notice()
    return SparsePlan(index, (int(shape[0]), int(shape[1])), row_ids, column_ids, starts, column, index._version)


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
    if used.numel() > COMPACT_BELOW * count:
        return None, ids, count
    return used, torch.searchsorted(used, ids), used.numel()


def _silence_csr_notice() -> None:
    """PyTorch says once per process that CSR tensors are in beta; nobody who trains an adapter asked for them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        starts, none = torch.zeros(2, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        torch.sparse_csr_tensor(starts, none, torch.empty(0), (1, 1), check_invariants=False)
