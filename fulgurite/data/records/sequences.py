"""What sequences of turns or token ids have in common."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["common_length"]


def common_length(first: Sequence[object], second: Sequence[object]) -> int:
    """How many items two sequences have in common at their beginning.

    Args:
        first: one of them.
        second: the other.
    """
    shorter = min(len(first), len(second))
    return next((i for i in range(shorter) if first[i] != second[i]), shorter)
