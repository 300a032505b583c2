"""What the figures of a piece should reach: each goal reads one number out of a results dict of :mod:`benchmarks.run`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.registry import OURS

__all__ = ["Goal", "peak_ratio", "ratio", "smallest_ratio", "speedup", "synchronisations", "verdict"]

Figures = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """A number that a piece should reach.

    Attributes:
        text: what the number is, for people.
        reads: the number out of a piece's figures; None where it was not measured.
        limit: what it should be at the most, or at the least.
        at_least: True where more is better.
    """

    text: str
    reads: Callable[[Figures], float | None]
    limit: float
    at_least: bool = False


def verdict(goal: Goal, figures: Figures) -> str:
    """One line: reached, missed, or not measured."""
    sign = "≥" if goal.at_least else "≤"
    found = goal.reads(figures)
    if found is None:
        return f"not measured: {goal.text} {sign} {goal.limit:g}"
    reached = found >= goal.limit if goal.at_least else found <= goal.limit
    return f"{'reached' if reached else 'MISSED'}: {goal.text} is {found:.3g}, wanted {sign} {goal.limit:g}"


def ratio(workload: str, contender: str = OURS) -> Callable[[Figures], float | None]:
    """The largest time over the floor's, among the workloads whose names contain this text."""
    return lambda figures: max(_values(figures, workload, contender, "ratio"), default=None)


def smallest_ratio(workload: str, *contenders: str) -> Callable[[Figures], float | None]:
    """The smallest time over the floor's among several contenders: what the best of our ways takes."""
    return lambda figures: min((v for c in contenders for v in _values(figures, workload, c, "ratio")), default=None)


def speedup(workload: str, other: str) -> Callable[[Figures], float | None]:
    """How many times as long another contender takes as ours; the smallest among the workloads with this text."""
    return lambda figures: min(_against_ours(figures, workload, other, "median_ms"), default=None)


def peak_ratio(workload: str, other: str) -> Callable[[Figures], float | None]:
    """How many times as much memory another contender takes as ours; the smallest among the workloads with this text."""
    return lambda figures: min(_against_ours(figures, workload, other, "peak_bytes"), default=None)


def synchronisations(workload: str = "") -> Callable[[Figures], float | None]:
    """The most waits of one step of ours; what the benchmark's own bookkeeping waits for is not part of a step."""
    return lambda figures: max(_values(figures, workload, OURS, "synchronisations"), default=None)


def _values(figures: Figures, workload: str, contender: str, field: str) -> Iterator[float]:
    for each in figures.get("workloads", ()):
        row = each["contenders"].get(contender, {})
        if workload in each["name"] and field in row:
            yield float(row[field])


def _against_ours(figures: Figures, workload: str, other: str, field: str) -> Iterator[float]:
    for each in figures.get("workloads", ()):
        rows = each["contenders"]
        theirs, ours = rows.get(other, {}).get(field), rows.get(OURS, {}).get(field)
        if workload in each["name"] and theirs is not None and ours:
            yield theirs / ours
