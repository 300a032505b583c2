"""Trees of random tokens, and the paths that their branches have alone."""

from __future__ import annotations

import random
from typing import NamedTuple

import torch

from tests.models.tiny import VOCABULARY, WINDOW


class Tree(NamedTuple):
    ids: torch.Tensor
    bounds: torch.Tensor
    parents: torch.Tensor

    def batch(self):
        positions = torch.empty_like(self.ids)
        for own in range(len(self.parents)):
            path = self.path(own)
            positions[path] = torch.arange(len(path))
        return {
            "input_ids": self.ids[None],
            "position_ids": positions[None],
            "cu_seq_lens": self.bounds,
            "parents": self.parents,
        }

    def path(self, own):
        """Places of all tokens from the root to the end of this segment."""
        found = []
        while own >= 0:
            found = [*range(int(self.bounds[own]), int(self.bounds[own + 1])), *found]
            own = int(self.parents[own])
        return torch.tensor(found, dtype=torch.int64)

    def paths(self):
        inner = set(self.parents.tolist())
        return [self.path(own) for own in range(len(self.parents)) if own not in inner]

    def dense(self):
        """(T, T): who sees whom, and at which distance."""
        sees = torch.zeros(len(self.ids), len(self.ids), dtype=torch.bool)
        depth = self.batch()["position_ids"][0]
        for own in range(len(self.parents)):
            path = self.path(own)
            for place in range(int(self.bounds[own]), int(self.bounds[own + 1])):
                sees[place, path[depth[path] <= depth[place]]] = True
        return sees, depth[:, None] - depth


def tree(lengths, parents, seed=3):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (sum(lengths),), generator=generator)
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    return Tree(ids, bounds, torch.tensor(parents, dtype=torch.int32))


def random_tree(seed, longest=7):
    """Of depth 1 to 6, several roots, in any order in which parents stand before their children."""
    choose = random.Random(seed)
    deepest = 1 + seed % 6
    parents, depth = [-1], [1]
    while len(parents) < choose.randint(deepest, 14) or max(depth) < deepest:
        options = [own for own in range(len(parents)) if depth[own] < deepest]
        # The last one often, so that deep trees come about.
        parent = choose.choice([-1, *options, options[-1], options[-1]]) if options else -1
        parents.append(parent)
        depth.append(1 if parent < 0 else depth[parent] + 1)
    return tree([choose.randint(1, longest) for _ in parents], parents, seed)


# Longer and shorter than the sliding window; the longest path is not the first, and lies scattered over the row.
SHAPE = tree((WINDOW + 3, 2, 5, WINDOW + 9, 1, 2 * WINDOW, 4, 3, 7), (-1, 0, 0, 2, 0, 3, 2, -1, 7))
