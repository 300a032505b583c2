"""The segments of a packed row: rows laid one behind the other, or trees of them.

A token sees itself, what stands before it in its own segment, and, in a tree, every token of the segments that are its
segment's ancestors. Its distance to a token that it sees is counted along the path from the root:

    sees(i, j)  ⇔  j ≤ i < end_j   and   distance(i, j) = depth_i − depth_j < window,

where the tokens stand in the tree's preorder, end_j is where the subtree of j's segment ends, and depth_i counts the tokens
before i on its path. Without parents the subtree is the segment.

Preorder with the child first that has the longest path below it makes long chains, in which each segment is followed by
its child. A chain is one causal stretch of the row, and what lies before it on its path is a few stretches more: so
attention has few and large pieces to compute, and none of them needs a mask.

The structure travels as the model's `attention_mask`: an int32 tensor, (1, 1, 1, S + 1) of the segments' boundaries, or
(1, 1, 2, S + 1) with the parents in its second row, -1 for roots and in the last column.

The host has to know the structure, and reading it from a GPU waits for all that the GPU has to do. So it is read where the batch
still lies on the CPU, and moves with the batch (:meth:`Segments.to`).
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import torch

__all__ = ["Chain", "Segments", "packed_structure"]


class Chain(NamedTuple):
    """Segments of which each is the parent of the next.

    Attributes:
        start: its first segment, counted in preorder.
        stop: the segment behind its last one.
        path: stretches (start, stop) of the segments before it on its path, from the root.
    """

    start: int
    stop: int
    path: tuple[tuple[int, int], ...]


class Segments:
    """The segments of one packed row.

    Args:
        boundaries: (S + 1,) int32 from 0 to T, ascending.
        parents: (S,) int32, the parent of each segment, which stands before it, or -1; None: no segment sees another.

    Attributes:
        lengths: tokens of each segment, in preorder; no zeros.
        parents: of each segment, in preorder; None where no segment sees another.
        order: (T,) int64 that brings the row into preorder, or None where it stands so already.
        inverse: (T,) int64 that brings it back, or None.
        windows: if a list, every layer notes its sliding window there (for proofs).
    """

    def __init__(self, boundaries: torch.Tensor, parents: torch.Tensor | None = None) -> None:
        self.boundaries = boundaries.to(torch.int32)
        self.given_parents = None if parents is None else parents.to(torch.int32)
        # One look for both: on a GPU it is a synchronisation.
        given: list[int] = (boundaries if parents is None else torch.cat([boundaries, parents.to(boundaries)])).tolist()
        edges = given[: len(boundaries)]
        above = [-1] * (len(edges) - 1) if parents is None else given[len(boundaries) :]
        lengths = [stop - start for start, stop in pairwise(edges)]
        if len(above) != len(lengths) or any(not -1 <= parent < own for own, parent in enumerate(above)):
            raise ValueError(
                f"Segments: {len(above)} parents for {len(lengths)} segments, or a parent that does not stand before its "
                "child; each segment needs a parent before it, or -1 where it is a root"
            )
        self.order: torch.Tensor | None = None
        self.inverse: torch.Tensor | None = None
        self.parents: list[int] | None = None
        if any(parent >= 0 for parent in above):
            preorder, self.parents = _preorder(lengths, above)
            lengths = [lengths[own] for own in preorder]
            if preorder != sorted(preorder):
                where = [torch.arange(edges[own], edges[own + 1], device="cpu") for own in preorder]
                order = torch.cat(where)
                self.order, self.inverse = (_moved(t, boundaries.device) for t in (order, order.argsort()))
        self.lengths = [length for length in lengths if length]
        self.windows: list[int | None] | None = None
        self._masks: dict[int | None, Any] = {}

    def to(self, device: torch.device | str, **options: Any) -> Segments:
        """The same structure with its tensors on another device, to which no look is needed; itself where they are there.

        Args:
            device: where the row lies that the structure is of.
            options: what ``torch.Tensor.to`` takes, such as non_blocking; a batch is moved with them. ``copy=True`` gives a
                structure of its own in any case, without the masks that attention prepared.
        """
        device = torch.device(device)
        there = self.boundaries.device
        if not options.get("copy") and device.type == there.type and device.index in (None, there.index):
            return self
        moved = copy(self)
        for name in ("boundaries", "given_parents", "order", "inverse"):
            tensor = getattr(self, name)
            setattr(moved, name, None if tensor is None else _moved(tensor, device))
        moved._masks = {}
        return moved

    @cached_property
    def tokens(self) -> int:
        """T."""
        return sum(self.lengths)

    @cached_property
    def offsets(self) -> list[int]:
        """Where each segment starts, and T, in preorder."""
        return list(accumulate(self.lengths, initial=0))

    @cached_property
    def depths(self) -> list[int]:
        """Tokens before each segment on its path."""
        found: list[int] = []
        for own in range(len(self.lengths)):
            parent = -1 if self.parents is None else self.parents[own]
            found.append(0 if parent < 0 else found[parent] + self.lengths[parent])
        return found

    @cached_property
    def longest_path(self) -> int:
        """Tokens."""
        return max((depth + own for depth, own in zip(self.depths, self.lengths, strict=True)), default=0)

    @cached_property
    def chains(self) -> list[Chain]:
        """All segments, once each; in a row without parents each is a chain of its own."""
        parents = self.parents if self.parents is not None else [-1] * len(self.lengths)
        heads = [own for own, parent in enumerate(parents) if parent < 0 or parent != own - 1]
        head_of = [
            head for head, stop in zip(heads, [*heads[1:], len(parents)], strict=True) for _ in range(head, stop)
        ]
        chains = []
        for head, stop in zip(heads, [*heads[1:], len(parents)], strict=True):
            path, at = [], parents[head]
            while at >= 0:
                path.append((head_of[at], at + 1))
                at = parents[head_of[at]]
            chains.append(Chain(head, stop, tuple(reversed(path))))
        return chains

    def carrier(self) -> torch.Tensor:
        """The `attention_mask` that stands for this structure."""
        rows = [self.boundaries]
        if self.given_parents is not None:
            rows.append(torch.cat([self.given_parents, self.given_parents.new_full((1,), -1)]))
        mask = torch.stack(rows).view(1, 1, len(rows), -1)
        # Spares each layer the way back from the tensor; where a wrapper copies the tensor it is read again.
        mask._fulgurite_segments = self  # type: ignore[attr-defined]
        return mask

    def block_mask(self, window: int | None, make: Any) -> Any:
        """Flex attention's mask of the tokens in preorder, made once per window.

        Args:
            window: in tokens of a path.
            make: `create_block_mask` or what it was compiled to.
        """
        if window not in self._masks:
            device = self.boundaries.device
            # Of each token its subtree's end and its depth, worked out on the host and moved at once.
            shift = [depth - start for depth, start in zip(self.depths, self.offsets[:-1], strict=True)]
            per_segment = torch.tensor([self._subtree_ends(), shift], dtype=torch.int32, device="cpu")
            per_token = per_segment.repeat_interleave(torch.tensor(self.lengths, device="cpu"), dim=1)
            per_token[1] += torch.arange(self.tokens, dtype=torch.int32, device="cpu")
            ends, depth = _moved(per_token, device)

            def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
                path = (query >= key) & (query < ends[key])
                return path if window is None else path & (depth[query] - depth[key] < window)

            self._masks[window] = make(sees, None, None, self.tokens, self.tokens, device=device)
        return self._masks[window]

    def _subtree_ends(self) -> list[int]:
        """The place behind each segment's last descendant."""
        ends = self.offsets[1:]
        for own in range(len(ends) - 1, -1, -1):
            if self.parents is not None and self.parents[own] >= 0:
                parent = self.parents[own]
                ends[parent] = max(ends[parent], ends[own])
        return ends


def _moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; on the way to a GPU through pinned memory, from which the host need not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu" and torch.cuda.is_available():
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def packed_structure(attention_mask: Any) -> Segments | None:
    """The structure that an attention mask carries, or None if it is an ordinary mask."""
    if not isinstance(attention_mask, torch.Tensor) or attention_mask.dtype != torch.int32:
        return None
    if attention_mask.dim() != 4 or attention_mask.shape[:3] not in ((1, 1, 1), (1, 1, 2)):
        return None
    known = getattr(attention_mask, "_fulgurite_segments", None)
    if known is not None:
        return known
    rows = attention_mask[0, 0]
    return Segments(rows[0], rows[1, :-1] if len(rows) == 2 else None)


def _preorder(lengths: list[int], parents: list[int]) -> tuple[list[int], list[int]]:
    """The segments that have tokens, depth first and the longest path first; and their parents, in that order."""
    # Empty segments are passed over: their children are their parents'.
    above: list[int] = []
    for parent in parents:
        above.append(parent if parent < 0 or lengths[parent] else above[parent])
    below: list[list[int]] = [[] for _ in lengths]
    reach = list(lengths)
    for own in range(len(lengths) - 1, -1, -1):
        if above[own] >= 0 and lengths[own]:
            below[above[own]].append(own)
            reach[above[own]] = max(reach[above[own]], lengths[above[own]] + reach[own])
    order: list[int] = []
    waiting = [own for own in range(len(lengths) - 1, -1, -1) if above[own] < 0 and lengths[own]]
    while waiting:
        own = waiting.pop()
        order.append(own)
        # Descending, so that the first one comes out first; of equally long ones the first.
        children = below[own]
        if children:
            longest = max(reversed(children), key=lambda child: reach[child])
            waiting.extend(child for child in children if child != longest)
            waiting.append(longest)
    place = {own: new for new, own in enumerate(order)}
    return order, [place[above[own]] if above[own] >= 0 else -1 for own in order]
