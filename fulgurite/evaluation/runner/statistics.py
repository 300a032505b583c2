"""Numbers with their uncertainty: pass@k, maj@k, means with standard errors and intervals.

pass@k (arXiv 2107.03374), of n samples with c right ones: 1 − C(n−c, k)/C(n, k), the unbiased estimate; 1 − (1 − c/n)^k is
biased. maj@k (arXiv 2203.11171): the share of items whose most frequent answer among k samples is right, over subsets without
replacement.

The standard error is the spread over items, sd/√items: how much the number would move with other items of the same kind. The
interval of a mean of zeros and ones is Wilson's (1927), which is right for few items and at 0 and 1 too; that of other means is
mean ± 1.96 standard errors within 0 and 1.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Number", "majority", "majority_at_k", "mean_of", "pass_at_k"]

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
_SUBSETS = 200


@dataclass(frozen=True)
class Number:
    """A mean over items.

    Attributes:
        value: the mean.
        error: its standard error; None for a single item.
        low: lower end of the 95 % interval.
        high: its upper end.
        items: how many items it is over.
    """

    value: float
    error: float | None
    low: float
    high: float
    items: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def pass_at_k(n: int, c: int, k: int) -> float:
    """The unbiased estimate of the probability that at least one of k samples is right.

    Args:
        n: samples.
        c: right ones among them.
        k: at most n.

    Raises:
        ValueError: k above n or below 1, or c outside 0 to n.
    """
    if not 1 <= k <= n or not 0 <= c <= n:
        raise ValueError(f"pass_at_k: n={n}, c={c}, k={k}; needed is 1 ≤ k ≤ n and 0 ≤ c ≤ n")
    if n - c < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(n - c + 1, n + 1))


def majority(groups: Sequence[str | None]) -> int | None:
    """The place of the first sample with the most frequent answer; ties go to the answer that came first.

    Args:
        groups: each sample's answer in canonical form; None has no part.
    """
    counts = Counter(group for group in groups if group is not None)
    if not counts:
        return None
    most = max(counts.values())
    return next(place for place, group in enumerate(groups) if group is not None and counts[group] == most)


def majority_at_k(groups: Sequence[str | None], correct: Sequence[float], k: int, seed: str = "") -> float:
    """How often the majority of k of the samples is right, over all subsets, or 200 random ones where there are more.

    Args:
        groups: as `majority` takes them.
        correct: of each sample.
        k: at most as many as there are samples.
        seed: of the subsets; an item's key.
    """
    n = len(groups)
    if not 1 <= k <= n:
        raise ValueError(f"majority_at_k: k={k} of {n} samples; needed is 1 ≤ k ≤ n")

    def right(places: Sequence[int]) -> float:
        winner = majority([groups[place] for place in places])
        return 0.0 if winner is None else correct[places[winner]]

    if math.comb(n, k) <= _SUBSETS:
        subsets: list[Sequence[int]] = list(itertools.combinations(range(n), k))
    else:
        draws = random.Random(f"maj|{seed}|{n}|{k}")
        subsets = [sorted(draws.sample(range(n), k)) for _ in range(_SUBSETS)]
    return math.fsum(map(right, subsets)) / len(subsets)


def mean_of(values: Sequence[float]) -> Number:
    """A mean with its standard error and interval.

    Args:
        values: one of each item, at least one.

    Raises:
        ValueError: no value.
    """
    n = len(values)
    if n == 0:
        raise ValueError("mean_of: no value; at least one item is needed")
    mean = math.fsum(values) / n
    if n == 1:
        error = None
    else:
        error = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1) / n)
    if all(value in (0.0, 1.0) for value in values):
        middle = (mean + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n * n))
        low, high = middle - half, middle + half
    else:
        low, high = (0.0, 1.0) if error is None else (mean - _Z * error, mean + _Z * error)
    # At 0 and 1 Wilson's end is the mean itself, from which rounding may part it.
    return Number(mean, error, max(0.0, min(low, mean)), min(1.0, max(high, mean)), n)
