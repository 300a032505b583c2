"""Trees of token sequences: what several paths begin with stands once, and a tree too large is cut along its branches.

Every path is a prompt with one answer. A path is put into a trie by its token ids: two paths share a node exactly as far
as their ids agree, so it does not matter where a template, a tokenizer or another turn makes them part. In a tree

    Σ_nodes tokens  ≤  Σ_paths tokens,

with equality where nothing is shared. A path ends at the end of a node. Nodes come parents first, and the child under which
the longest path lies follows its parent at once: the ancestors of most nodes are then one stretch of the row.

A unit is a set of paths that are looked at together (the two of a pair). A tree above the budget is cut into parts, each
with whole units and all that their paths need: what the parts share is repeated in each, and no path is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

__all__ = ["Tree", "build_tree", "cluster", "cut"]

Ids = np.ndarray  # (tokens,) int32
_TAIL = 8  # tokens of a prompt's end, which a template may have written for the answer only
_NEAR = 16  # paths between two that are looked at one by one
_OPEN = 8  # trees that a unit is tried in, the latest; more would make thousands of answers to one prompt quadratic


@dataclass(frozen=True)
class Tree:
    """Nodes of token ids, in an order in which parents stand before their children.

    Attributes:
        pieces: Token ids of each node, none of them empty.
        parents: Index of each node's parent, -1 for a root.
        depths: Tokens on the path before each node.
        ends: For each path given, the node that it ends with.
    """

    pieces: list[Ids]
    parents: list[int]
    depths: list[int]
    ends: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of all nodes."""
        return sum(len(piece) for piece in self.pieces)


class _Sorted:
    """Paths in lexicographic order, each once, with how far neighbours agree."""

    def __init__(self, paths: Sequence[Ids]) -> None:
        # Big-endian bytes sort as the numbers do (none is negative), and faster than lists.
        keys = [path.astype(">i4").tobytes() for path in paths]
        unique = sorted(set(keys))
        place = {key: i for i, key in enumerate(unique)}
        first: dict[bytes, int] = {}
        for i, key in enumerate(keys):
            first.setdefault(key, i)
        self.paths = [paths[first[key]] for key in unique]
        self.place = [place[key] for key in keys]
        self.first = [first[key] for key in unique]
        self.shared = [0] + [_agree(a, b) for a, b in zip(self.paths, self.paths[1:], strict=False)]

    def tokens(self, places: set[int]) -> int:
        """Tokens of the tree of these paths: each path's without those that it shares with the one before it."""
        ordered = sorted(places)
        total = sum(len(self.paths[i]) for i in ordered)
        return total - sum(self._agreed(a, b) for a, b in pairwise(ordered))

    def _agreed(self, low: int, high: int) -> int:
        """Tokens that two paths begin with in common: the least that neighbours between them share."""
        # From here on a look at every neighbour would make thousands of answers to one prompt quadratic.
        if high - low <= _NEAR:
            return min(self.shared[low + 1 : high + 1])
        level = (high - low).bit_length() - 1
        least = self._least[level]
        return min(least[low + 1], least[high + 1 - (1 << level)])

    @cached_property
    def _least(self) -> list[list[int]]:
        """Of each level k the least of the 2ᵏ entries of `shared` from each place on."""
        levels, size = [self.shared], 1
        while 2 * size <= len(self.shared):
            last = levels[-1]
            levels.append([min(a, b) for a, b in zip(last, last[size:], strict=False)])
            size *= 2
        return levels


def build_tree(paths: Sequence[Ids]) -> Tree:
    """The tree of some paths; paths with nothing in common make several roots.

    Args:
        paths: token ids of each, (tokens,) int32, at least one; equal paths end at the same node.
    """
    if not len(paths) or any(len(path) == 0 for path in paths):
        raise ValueError("build_tree: no path, or one without a token; at least one token is needed in each")
    order = _Sorted(paths)
    # Stretches of the sorted paths (first, last + 1, tokens that they share already, parent) that are to be made nodes.
    waiting = _runs(order, 0, len(order.paths), 0, -1)[::-1]
    pieces: list[Ids] = []
    parents: list[int] = []
    depths: list[int] = []
    end_of = [-1] * len(order.paths)
    while waiting:
        low, high, depth, parent = waiting.pop()
        stop = min([len(order.paths[low]), *order.shared[low + 1 : high]])
        node = len(pieces)
        pieces.append(order.paths[low][depth:stop])
        parents.append(parent)
        depths.append(depth)
        if len(order.paths[low]) == stop:  # sorted: whatever ends here stands first
            end_of[low] = node
            low += 1
        waiting.extend(_runs(order, low, high, stop, node)[::-1])
    return Tree(pieces, parents, depths, [end_of[place] for place in order.place])


def _runs(order: _Sorted, low: int, high: int, depth: int, parent: int) -> list[tuple[int, int, int, int]]:
    """The paths from `low` to `high`, which agree in `depth` tokens, by the token that follows; the longest path's first."""
    starts = [i for i in range(low, high) if i == low or order.shared[i] <= depth]
    runs = [(a, b, depth, parent) for a, b in zip(starts, [*starts[1:], high], strict=False)]
    # Ties by the order in which the paths were given.
    return sorted(
        runs, key=lambda r: (-max(len(order.paths[i]) for i in range(r[0], r[1])), min(order.first[r[0] : r[1]]))
    )


def cut(paths: Sequence[Ids], units: Sequence[Sequence[int]], budget: int) -> tuple[list[list[int]], list[int]]:
    """Divides units over trees of at most `budget` tokens, each unit going where it adds least.

    Args:
        paths: token ids of each path.
        units: indices of paths that must be in one tree, in the order in which they are placed.
        budget: tokens of a tree at most.

    Returns:
        The units of each tree, as indices, in ascending order; and those units that no tree can hold.
    """
    order = _Sorted(paths)
    members = [{order.place[i] for i in unit} for unit in units]
    everything = set().union(*members) if members else set()
    if everything and order.tokens(everything) <= budget:
        return [list(range(len(units)))], []
    parts: list[tuple[set[int], list[int]]] = []
    sizes: list[int] = []
    left_out = []
    for unit, places in enumerate(members):
        best: tuple[int, int, int] | None = None
        for part in range(max(0, len(parts) - _OPEN), len(parts)):
            held = parts[part][0]
            size = sizes[part] if places <= held else order.tokens(held | places)
            if size <= budget and (best is None or size - sizes[part] < best[0]):
                best = (size - sizes[part], part, size)
        alone = order.tokens(places)
        if best is not None and best[0] < alone:
            parts[best[1]][0].update(places)
            parts[best[1]][1].append(unit)
            sizes[best[1]] = best[2]
        elif alone <= budget:
            parts.append((set(places), [unit]))
            sizes.append(alone)
        else:
            left_out.append(unit)
    return [held for _, held in parts], left_out


def cluster(prompts: Sequence[Ids], paths: Sequence[Sequence[Ids]]) -> list[list[int]]:
    """Divides the rows of a group over trees: a row belongs to a tree whose shortest prompt its own paths begin with.

    The last tokens of that prompt do not count: a tokenizer may join them with what follows.

    Args:
        prompts: token ids before the answers of each row.
        paths: token ids of each row's paths.

    Returns:
        The rows of each tree, the shortest prompt first, rows with prompts of equal length in their order.
    """
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    found: list[list[int]] = []
    # By length and content: a group of a thousand rows with prompts of their own is no reason to compare each two.
    roots: dict[int, dict[bytes, int]] = {}
    for row in order:
        for length, known in roots.items():
            at = known.get(paths[row][0][:length].tobytes())
            if at is not None:
                found[at].append(row)
                break
        else:
            root = prompts[row][: max(1, len(prompts[row]) - _TAIL)]
            roots.setdefault(len(root), {})[root.tobytes()] = len(found)
            found.append([row])
    return found


def _agree(a: Ids, b: Ids) -> int:
    """How many tokens two sequences begin with in common."""
    length = min(len(a), len(b))
    different = a[:length] != b[:length]
    at = int(different.argmax()) if length else 0
    return at if length and different[at] else length
