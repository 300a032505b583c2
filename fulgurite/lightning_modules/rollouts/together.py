"""The step that all processes take together: its draws, and the figures of all its trees in the order of one process.

Rank r of W has every W-th prompt of a step, from the r-th on (:mod:`fulgurite.data.sampling.windows`). Advantages, baselines and KL
are computed from the answers of all processes, on each of them, so that W processes train as one process would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fulgurite.lightning_modules.processes.agreeing import gathered, of_all, place
from fulgurite.lightning_modules.rollouts.drawing import Group
from fulgurite.lightning_modules.rollouts.figures import teaches
from fulgurite.lightning_modules.rollouts.packs import Trees

__all__ = ["Drawn", "Whole", "draw_together"]

Draw = Callable[[Mapping[str, Any], Sequence[str]], list[Group]]


@dataclass
class Drawn:
    """What a step drew.

    Attributes:
        groups: of all processes, in the order of their places.
        own: those of this process.
        redrawn: groups that were drawn again; one that was drawn again twice counts twice.
        thrown: tokens of the answers that were thrown away for it.
    """

    groups: list[Group]
    own: list[Group]
    redrawn: int = 0
    thrown: int = 0


def draw_together(owner: str, draw: Draw, batch: Mapping[str, Any], again: int) -> Drawn:
    """Draw a step's answers on all processes, and once more for prompts whose answers all have one reward.

    Args:
        owner: class name of the module, for messages.
        draw: gives rewarded answers to the prompts of a batch; the second argument is what tells draws of a prompt apart.
        batch: of PromptsDataModule; may be empty where another process has the last prompts of an epoch.
        again: how often a group may be drawn again.
    """
    rank, number = place()
    keys = _keys(batch["prompt_ids"])

    def work() -> tuple[list[Group], int, int]:
        groups = draw(batch, keys) if keys else []
        redrawn = thrown = 0
        for attempt in range(1, again + 1):
            equal = [i for i, group in enumerate(groups) if not teaches(group)]
            if not equal:
                break
            part = {name: [batch[name][i] for i in equal] for name in ("prompt_ids", "turns", "references")}
            redrawn += len(equal)
            thrown += sum(len(answer.tokens) for i in equal for answer in groups[i].answers)
            for i, group in zip(equal, draw(part, [f"{keys[i]} again {attempt}" for i in equal]), strict=True):
                groups[i] = group
        for i, group in enumerate(groups):
            group.place = i * number + rank
        return groups, redrawn, thrown

    found = of_all(owner, work)
    groups = sorted((group for theirs, _, _ in found for group in theirs), key=lambda group: group.place)
    return Drawn(groups, found[rank][0], sum(one for _, one, _ in found), sum(one for _, _, one in found))


def _keys(prompts: Sequence[Sequence[int]]) -> list[str]:
    """What tells equal prompts of all processes apart: "" for the first of them, then their numbers."""
    rank, number = place()
    shares = gathered([tuple(ids) for ids in prompts])
    order = sorted((i * number + r, r, ids) for r, share in enumerate(shares) for i, ids in enumerate(share))
    seen: Counter[tuple[int, ...]] = Counter()
    found = []
    for _, r, ids in order:
        if r == rank:
            found.append(str(seen[ids]) if seen[ids] else "")
        seen[ids] += 1
    return found


@dataclass
class Whole:
    """The trees of all processes: lengths (C,), rewards (C,) and group (C,) of their answers, and figures (K,) of their tokens."""

    trees: Trees
    lengths: Tensor
    rewards: Tensor
    group: Tensor
    figures: dict[str, Tensor]
    _places: list[int] = field(default_factory=list)
    _tokens: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, trees: Trees, rewards: Tensor) -> Whole:
        """Gather what every process has.

        Args:
            trees: this process's, with the same figures everywhere.
            rewards: of their answers.
        """
        parts = (trees.lengths.split(trees.answers), rewards.split(trees.answers)) if len(trees) else ((), ())
        mine = list(zip(trees.places, *parts, trees.by_tree(), strict=True))
        every = sorted((tree for share in gathered(mine) for tree in share), key=lambda tree: tree[0])
        places, lengths, totals, figures = zip(*every, strict=True)
        return cls(
            trees,
            torch.cat(lengths),
            torch.cat(totals),
            torch.arange(len(every)).repeat_interleave(torch.tensor([len(part) for part in lengths])),
            {name: torch.cat([each[name] for each in figures]) for name in figures[0]},
            list(places),
            [int(part.sum()) for part in lengths],
        )

    def put(self, name: str, values: Tensor) -> None:
        """Keep this process's share of a figure of all tokens.

        Args:
            name: its key in batches.
            values: of the tokens of all processes, (K,).
        """
        parts = dict(zip(self._places, values.split(self._tokens), strict=True))
        own = [parts[number] for number in self.trees.places]
        self.trees.put(name, torch.cat(own) if own else values[:0])
