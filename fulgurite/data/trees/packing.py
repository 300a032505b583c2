"""Which trees share a pack: best fit by tokens; with labels, packs that hold wanted and unwanted answers alike.

Packing by length alone would part the labels wherever their answers differ in length, and KTO's loss would see runs of one
label. So trees of the two labels are first laid out in turn, in blocks, and then blocks are packed.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from fulgurite.data.rows.packed import best_fit
from fulgurite.data.trees.rows import PackedTrees, TreeRows

__all__ = ["interleaved", "pack_trees"]


def pack_trees(rows: TreeRows, trees: Tensor, budget: int, labels: bool, seed: int) -> PackedTrees:
    """Packs in the order of their first trees, and in each the trees in theirs.

    Args:
        rows: the trees.
        trees: which of them, (n,) int64.
        budget: tokens of a pack at most.
        labels: keep wanted and unwanted answers together.
        seed: decides which of them come together.
    """
    lengths = rows.lengths
    blocks = interleaved(lengths, rows.labels(), trees, budget, seed) if labels else trees[:, None].tolist()
    packs = [
        sorted(tree for i in pack for tree in blocks[i])
        for pack in best_fit([int(lengths[block].sum()) for block in blocks], budget)
    ]
    return PackedTrees(rows, sorted(packs, key=lambda pack: pack[0]))


def interleaved(lengths: Tensor, labels: Tensor, trees: Tensor, budget: int, seed: int) -> list[list[int]]:
    """Trees in blocks that hold both labels as evenly as can be, in a random order.

    The rarer kind begins a block, and as many of the other as there are for each follow; a block never exceeds the budget.

    Args:
        lengths: tokens of each tree, (trees,).
        labels: desirable minus undesirable answers of each, (trees,).
        trees: which trees, (n,) int64.
        budget: tokens of a block at most.
        seed: decides the order.
    """
    digest = hashlib.sha256(f"{seed}:labels".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    order = trees[torch.randperm(len(trees), generator=generator)]
    rare, common = order[labels[order] > 0].tolist(), order[labels[order] < 0].tolist()
    if len(rare) > len(common):
        rare, common = common, rare
    found: list[list[int]] = [[tree] for tree in order[labels[order] == 0].tolist()]
    # Share i of the common ones belongs to the rare one i; without any rare one all stand alone.
    bounds = [round(i * len(common) / len(rare)) for i in range(len(rare) + 1)] if rare else [0]
    for i, tree in enumerate(rare):
        block, room = [tree], budget - int(lengths[tree])
        for other in common[bounds[i] : bounds[i + 1]]:
            if int(lengths[other]) > room:
                found.append(block)
                block, room = [], budget
            block.append(other)
            room -= int(lengths[other])
        found.append(block)
    return found + ([] if rare else [[tree] for tree in common])
