"""Selected entries of G = leftᵀ right, left (M, rows) and right (M, columns), in plain PyTorch, in chunks of bounded size.

The methods are those of :mod:`fulgurite.kernels.sparse.plan`. Sums over M run in float32 (float64 for float64 operands). Beside
the operands at most one chunk is in memory; only where several layers share an operand, all of its chunks are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F

from fulgurite.kernels.backend import current_backend, resolve
from fulgurite.kernels.sparse.plan import SparsePlan

__all__ = [
    "Chunks",
    "SharedChunks",
    "by_method",
    "keeps_few",
    "narrowed",
    "selected_entries",
    "share",
    "transposed_chunks",
]

# Tokens of a chunk of a sampled product, and chunks that are transposed together: their float32 copies stay in the cache.
TOKENS, TOGETHER = 256, 2
# A layer keeps only the columns of x that its scalars need if they are at most this share. Several layers often read one x,
# which is kept once for all of them; beyond this share their copies would take more.
FEW = 0.125


def keeps_few(ids: torch.Tensor | None, width: int) -> bool:
    """Whether a layer should keep the columns ``ids`` of its (M, width) input instead of the input."""
    return ids is not None and ids.shape[0] <= FEW * width


def narrowed(side: torch.Tensor, ids: torch.Tensor | None) -> torch.Tensor:
    """The columns ``ids`` of (M, C), unless they were taken already; all for None."""
    return side if ids is None or side.shape[1] == ids.shape[0] else side.index_select(1, ids)


class Chunks(list[torch.Tensor]):
    """(M, C) as sampled products read it: a (C, tokens) contiguous float32 (float64) tensor for each TOKENS tokens."""

    @classmethod
    def of(cls, side: torch.Tensor) -> Chunks:
        """The chunks of a side, (M, C)."""
        return cls(transposed_chunks(side))


def transposed_chunks(side: torch.Tensor) -> Iterator[torch.Tensor]:
    """(C, tokens) contiguous float32 (float64) chunks of (M, C), a few made at a time.

    They are made by the shuffling of image channels: for an image in channels-last layout it transposes the numbers of each
    point, here a chunk, by vector instructions on all threads. A transposing copy runs on one (512 × 768: 151 µs against 51).
    """
    wide = torch.promote_types(side.dtype, torch.float32)
    for piece in side.split(TOGETHER * TOKENS):
        piece = piece.to(wide).contiguous()
        points, width = piece.shape[0] // TOKENS, TOKENS * piece.shape[1]
        if points:
            image = piece.as_strided((points, width, 1, 1), (width, 1, width, width))
            yield from F.native_channel_shuffle(image, TOKENS).view(points, -1, TOKENS)
        if piece.shape[0] > points * TOKENS or not points:
            yield piece[points * TOKENS :].t().contiguous()


class SharedChunks:
    """The transposed chunks of an x that several layers read (query, key and value; gate and up), made once per backward.

    The chunks live from the backward of the first of these layers to the backward of the last one. If a layer never runs its
    backward, they live as long as the graph.
    """

    def __init__(self) -> None:
        self.readers = self.waiting = 0
        self.chunks: Chunks | None = None

    def take(self, whole: Callable[[], torch.Tensor]) -> torch.Tensor | Chunks:
        """The chunks of ``whole()``; of an x with a single reader ``whole()`` itself."""
        if self.readers == 1:
            return whole()
        chunks = Chunks.of(whole()) if self.chunks is None else self.chunks
        self.waiting -= 1
        self.chunks = chunks if self.waiting else None
        if not self.waiting:
            self.waiting = self.readers  # a graph that is kept may be gone through again
        return chunks


def share(node: Any, output: int, dtype: torch.dtype) -> SharedChunks:
    """What the layers that read this output of an autograd node, in this dtype, have in common. It holds nothing of the graph."""
    shared: SharedChunks = node.metadata.setdefault(("fulgurite", output, dtype), SharedChunks())
    shared.readers += 1
    shared.waiting += 1
    return shared


def selected_entries(left: torch.Tensor | Chunks, right: torch.Tensor | Chunks, plan: SparsePlan) -> torch.Tensor:
    """(n,) float32 or float64: the entries of leftᵀ right at ``plan.index``.

    Args:
        left: (M, rows), or (M, rows taking part).
        right: (M, columns), or (M, columns taking part); left's dtype. One of both may be :class:`Chunks`, where the plan's
            method is "sampled" and all of that side takes part.
        plan: the pattern.
    """
    n = plan.columns.shape[0]
    if isinstance(left, Chunks) or isinstance(right, Chunks):
        left = left if isinstance(left, Chunks) else narrowed(left, plan.row_ids)
        right = right if isinstance(right, Chunks) else narrowed(right, plan.column_ids)
        return _sampled_products(left, right, plan.starts, plan.columns)
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
    left: torch.Tensor | Chunks, right: torch.Tensor | Chunks, starts: torch.Tensor, columns: torch.Tensor
) -> torch.Tensor:
    mine, other = (side if isinstance(side, Chunks) else transposed_chunks(side) for side in (left, right))
    total = None
    for one, two in zip(mine, other, strict=True):
        if total is None:
            total, size = one.new_zeros(columns.shape[0]), (one.shape[0], two.shape[0])
        pattern = torch.sparse_csr_tensor(starts, columns, total, size, check_invariants=False)
        total = torch.sparse.sampled_addmm(pattern, one, two.t(), beta=1.0).values()
    assert total is not None
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
    pick = resolve("picked_entries", left) if whole and not torch.compiler.is_compiling() else None
    for number, (first, last) in enumerate(pairwise(plan.bounds)):
        if last == first:
            continue
        low, high = number * height, min((number + 1) * height, plan.size[0])
        chunk = left[:, low:high].t() @ right
        if pick is not None:
            pick(chunk, plan.index, total, first, last, low * columns)
        else:
            if whole:
                places = plan.index[first:last] - low * columns
            else:
                places = _rows(plan, first, last, low, high) * columns + plan.columns[first:last]
            total[first:last] = chunk.view(-1).index_select(0, places)
        del chunk  # or it would be alive beside the next one
    return total
