"""acc and acc_norm as lm-evaluation-harness computes them.

acc: the choice with the largest log-likelihood is right. acc_norm: the choice with the largest log-likelihood per character of
its text, without the blank in front. Ties go to the first choice. A choice is scored as it follows the prompt, with one blank
between.
"""

from __future__ import annotations

from collections.abc import Sequence

from fulgurite.data.records.item import Item, with_blank

__all__ = ["accuracy", "accuracy_alone", "chosen", "with_blank"]


def chosen(values: Sequence[float]) -> int:
    """The place of the largest value, the first of several; NaN is never the largest."""
    best = max((value for value in values if value == value), default=None)
    return 0 if best is None else values.index(best)


def accuracy(item: Item, sums: Sequence[float], greedy: Sequence[bool] | None) -> dict[str, float]:
    """acc and acc_norm of one item.

    Args:
        item: its target is the right choice's place.
        sums: log-likelihood of each choice.
        greedy: not needed.
    """
    by_length = [value / max(1, len(choice) - 1) for value, choice in zip(sums, item.choices, strict=True)]
    return {"acc": float(chosen(sums) == item.target), "acc_norm": float(chosen(by_length) == item.target)}


def accuracy_alone(item: Item, sums: Sequence[float], greedy: Sequence[bool] | None) -> dict[str, float]:
    """acc of one item."""
    return {"acc": float(chosen(sums) == item.target)}
