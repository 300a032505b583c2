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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fulgurite.data.records.preference import Preference, PreferenceRecord

__all__ = ["Augmented", "augment"]

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


class Augmented:
    """Records with the new pairs of each instruction behind its last one; read twice, to know where that is.

    Only the pairs of instructions that are not complete yet are kept in memory; rows of one instruction usually follow each other.

    Args:
        records: starts a reading of the same records at each call.
        seed: see `augment`.
    """

    def __init__(self, records: Callable[[], Iterable[Any]], seed: int = 0) -> None:
        self.records = records
        self.seed = seed
        self.added = 0

    def __iter__(self) -> Iterator[PreferenceRecord]:
        sizes = Counter(record.group for record in self.records() if isinstance(record, Preference))
        waiting: dict[str, list[Preference]] = {}
        self.added = 0
        for record in self.records():
            yield record
            group = getattr(record, "group", None)
            # The grid of more rows is too large anyway.
            if not isinstance(record, Preference) or group is None or not 1 < sizes[group] ** 2 <= _MOST_GRID:
                continue
            waiting.setdefault(group, []).append(record)
            if len(waiting[group]) == sizes[group]:
                made = augment(waiting.pop(group), self.seed)
                self.added += len(made)
                yield from made
