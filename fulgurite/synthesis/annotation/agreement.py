"""How far two judges of the same texts agree.

Of each aspect: how many texts both rated; the share with the same rating and with one that is at most 1 apart; the mean
difference; Cohen's kappa with quadratic weights, 1 − Σ w o / Σ w e, w = (i − j)² (0 is chance, 1 is the same); Spearman's ρ over
texts; and of the pairs of one row that both judges order, the share that they order alike.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from fulgurite.evaluation.controllability import spearman
from fulgurite.evaluation.runner.statistics import mean_of

__all__ = ["agreement", "weighted_kappa"]

Scores = Sequence[float | None]


def agreement(rows: Sequence[tuple[Scores, Scores]]) -> dict[str, Any]:
    """Figures of one aspect.

    Args:
        rows: of each row, the ratings of its texts by the first and by the second judge; None where one was not rated.
    """
    both = [
        (a, b) for first, second in rows for a, b in zip(first, second, strict=True) if a is not None and b is not None
    ]
    alike = []
    for first, second in rows:
        for i, j in combinations(range(len(first)), 2):
            values = (first[i], first[j], second[i], second[j])
            if None in values:
                continue
            one, other = _sign(first[i], first[j]), _sign(second[i], second[j])
            if one and other:
                alike.append(float(one == other))
    if not both:
        return {"texts": 0, "pairs": 0}
    firsts, seconds = [a for a, _ in both], [b for _, b in both]
    correlation = spearman(firsts, seconds) if len(both) > 1 else math.nan
    return {
        "texts": len(both),
        "same": _share([float(a == b) for a, b in both]),
        "within 1": _share([float(abs(a - b) <= 1) for a, b in both]),
        "second − first": round(sum(b - a for a, b in both) / len(both), 4),
        "kappa": _number(weighted_kappa(firsts, seconds)),
        "spearman": _number(correlation),
        "pairs": len(alike),
        "ordered alike": _share(alike) if alike else None,
    }


def weighted_kappa(first: Sequence[float], second: Sequence[float]) -> float:
    """Cohen's kappa with quadratic weights; NaN where both judges always give one and the same rating.

    Args:
        first: ratings of one judge.
        second: of the other, of the same texts.
    """
    count = len(first)
    seen = sum((a - b) ** 2 for a, b in zip(first, second, strict=True)) / count
    one, other = Counter(first), Counter(second)
    chance = sum(m * n * (a - b) ** 2 for a, m in one.items() for b, n in other.items()) / count**2
    return math.nan if chance == 0 else 1 - seen / chance


def _sign(left: float | None, right: float | None) -> int:
    if left is None or right is None:
        return 0
    return (left > right) - (left < right)


def _share(values: Sequence[float]) -> dict[str, float]:
    found = mean_of(values)
    return {"share": round(found.value, 4), "low": round(found.low, 4), "high": round(found.high, 4)}


def _number(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(value, 4)
