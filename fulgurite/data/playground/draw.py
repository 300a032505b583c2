"""Seeded draws that are the same on every machine and Python version, and the split that a combination belongs to.

Only ``random.Random.random`` is used: its sequence is guaranteed across Python versions, that of ``choice``, ``sample``
and ``shuffle`` is not. Seeds are strings, which ``random`` hashes with SHA-512 and not with the salted ``hash``.

The playground holds out *combinations*: a combination of words (a key) belongs to one split by its CRC-32, so that a
validation row puts together known words in a way that no train row and no pretraining document does.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["SPLITS", "Draw", "split_of"]

SPLITS = ("train", "validation", "test")

_T = TypeVar("_T")


def split_of(*key: object) -> str:
    """The split that a combination belongs to: eight in ten are train, one validation, one test.

    Args:
        key: the words of the combination.
    """
    bucket = zlib.crc32("|".join(str(part) for part in key).encode()) % 10
    return "validation" if bucket == 8 else "test" if bucket == 9 else "train"


class Draw:
    """A stream of draws for one split.

    Args:
        seed: anything with a stable ``str``; equal seeds give equal streams.
        split: the split whose combinations ``owned`` returns.
    """

    def __init__(self, seed: object, split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(f"Draw: split {split!r}; allowed are {', '.join(SPLITS)}; choose one of them.")
        self.split = split
        self._random = random.Random(f"playground|{seed}")

    def integer(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + int(self._random.random() * (high - low + 1))

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self._random.random() < probability

    def pick(self, items: Sequence[_T]) -> _T:
        """One of the items."""
        return items[int(self._random.random() * len(items))]

    def other(self, items: Sequence[_T], than: _T) -> _T:
        """One of the items that is not ``than``."""
        while True:
            item = self.pick(items)
            if item != than:
                return item

    def shuffled(self, items: Sequence[_T]) -> list[_T]:
        """The items in a random order."""
        left = list(items)
        return [left.pop(int(self._random.random() * len(left))) for _ in range(len(left))]

    def sample(self, items: Sequence[_T], count: int) -> list[_T]:
        """``count`` different items."""
        return self.shuffled(items)[:count]

    def owned(self, make: Callable[[], tuple[_T, ...]]) -> tuple[_T, ...]:
        """Draws until the combination belongs to this stream's split.

        Args:
            make: draws one combination from this stream.
        """
        while True:
            key = make()
            if split_of(*key) == self.split:
                return key
