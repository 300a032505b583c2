"""Eurus's pair augmentation for reward models (Yuan et al., arXiv 2404.02078, appendix B): more pairs out of the same actions.

An instruction whose trajectory has N turns has N correct and N incorrect actions. Every correct one is matched with every incorrect
one of *another* turn, N·N − N new pairs beside the N that there are; they are single-turn: the prompt is the instruction.
Instructions with N·N > 10 (N > 3) are left as they are; of the others at most nine pairs are drawn, each action in at most three.

Pairs of one instruction are those with its `group`. Where it has several trajectories, N counts their pairs together. The order
and the draw follow the group's name and the seed, so that every process makes the same pairs.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from fulgurite.data.records.preference import Preference, PreferenceRecord

__all__ = ["Augmenting", "augment"]

_MOST_GRID, _MOST_PAIRS, _MOST_USES = 10, 9, 3


def augment(pairs: Sequence[Preference], seed: int = 0) -> list[Preference]:
    """The new pairs of one instruction.

    Args:
        pairs: all of its pairs.
        seed: decides which are drawn where there are more than nine.
    """
    if len(pairs) < 2 or len(pairs) ** 2 > _MOST_GRID:
        return []
    grid = [(a, b) for a in range(len(pairs)) for b in range(len(pairs)) if a != b]
    grid = [(a, b) for a, b in grid if pairs[a].chosen.strip() != pairs[b].rejected.strip()]
    random.Random(f"{seed}|{pairs[0].group}").shuffle(grid)
    uses: Counter[tuple[str, int]] = Counter()
    found: list[Preference] = []
    for a, b in grid:
        actions = (("chosen", a), ("rejected", b))
        if len(found) == _MOST_PAIRS or any(uses[action] == _MOST_USES for action in actions):
            continue
        uses.update(actions)
        first = pairs[a]
        # The instruction: what stands before the first action, without the turns that followed it.
        prompt = first.prompt[: next(i for i, turn in enumerate(first.prompt) if turn.role == "user") + 1]
        found.append(
            Preference(
                prompt,
                first.chosen,
                pairs[b].rejected,
                first.source,
                first.row,
                weight=first.weight,
                group=first.group,
                tag=first.tag,
                direct=first.direct,
            )
        )
    return found


class Augmenting:
    """Adds the new pairs of each instruction after its last record.

    Only the pairs of instructions that are not complete yet are kept in memory; rows of one instruction usually follow each other.

    Args:
        sizes: how many pairs each instruction has, by its group.
        seed: see `augment`.
    """

    def __init__(self, sizes: Mapping[str | None, int], seed: int = 0) -> None:
        self.sizes = sizes
        self.seed = seed
        self.waiting: dict[str, list[Preference]] = {}

    def after(self, record: PreferenceRecord) -> list[Preference]:
        """The new pairs that follow a record: none before the last one of its instruction.

        Args:
            record: the next one.
        """
        group = record.group
        # The grid of more rows is too large anyway.
        if not isinstance(record, Preference) or group is None or not 1 < self.sizes[group] ** 2 <= _MOST_GRID:
            return []
        self.waiting.setdefault(group, []).append(record)
        if len(self.waiting[group]) < self.sizes[group]:
            return []
        return augment(self.waiting.pop(group), self.seed)
