"""How closely answers follow the levels that were asked for: rank correlation per objective, and the front that can be reached.

For each objective alone, and each two at once, every level (or pair of levels) is asked for with the same prompts; a `rate` says
which level an answer reached. Spearman's ρ is taken over single answers, ties at their mean rank. What the free objectives lose
against the same model without a condition is given as a share of their scale. A point of a front is the mean level of two
objectives under one condition; a front covers another's points where none lies beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from numbers import Real
from typing import Any

from fulgurite.data.conditions.objectives import Condition, Objectives

__all__ = [
    "Asked",
    "ControlReport",
    "ask",
    "conditions_to_ask",
    "covers",
    "hypervolume",
    "pareto_front",
    "spearman",
]

_MOST_LEVELS = 5
Point = tuple[float, float]


@dataclass(frozen=True)
class Asked:
    """One answer: what was asked for, and what came.

    Attributes:
        condition: Level asked for by controlled objective; empty: nothing was asked for.
        achieved: Level reached by objective; an objective that could not be rated is absent.
    """

    condition: Condition
    achieved: Condition


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN where one side is constant.

    Args:
        first: values, at least two.
        second: as many.

    A NaN on either side makes it NaN too.
    """
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"spearman: {len(first)} and {len(second)} values; both lists need the same number of values, at least two"
        )
    if any(map(math.isnan, (*first, *second))):
        return math.nan
    a, b = _ranks(first), _ranks(second)
    middle = (len(a) + 1) / 2
    covariance = math.fsum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    spread = math.fsum((x - middle) ** 2 for x in a) * math.fsum((y - middle) ** 2 for y in b)
    return covariance / math.sqrt(spread) if spread > 0 else math.nan


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(range(len(values)), key=lambda i: values[i])
    ranks = [0.0] * len(values)
    start = 0
    while start < len(order):
        stop = start
        while stop < len(order) and values[order[stop]] == values[order[start]]:
            stop += 1
        for i in order[start:stop]:
            ranks[i] = (start + 1 + stop) / 2
        start = stop
    return ranks


def conditions_to_ask(objectives: Objectives, two_at_once: bool = True) -> list[dict[str, float]]:
    """No condition, each objective alone at each level, and each two at all pairs of levels.

    Whole levels are taken one by one; of a scale with more than five, or with others, five evenly spaced ones.

    Args:
        objectives: those that the model was trained with.
        two_at_once: whether two objectives are asked for together too.
    """
    levels = {name: _levels(*objectives.scales[name]) for name in objectives}
    found: list[dict[str, float]] = [{}]
    found += [{name: level} for name in objectives for level in levels[name]]
    for pair in combinations(objectives, 2) if two_at_once else ():
        found += [dict(zip(pair, both, strict=True)) for both in product(*(levels[name] for name in pair))]
    return found


def _levels(low: float, high: float) -> list[float]:
    whole = low.is_integer() and high.is_integer() and high - low < _MOST_LEVELS
    steps = int(high - low) if whole else _MOST_LEVELS - 1
    return [low + (high - low) * i / steps for i in range(steps + 1)]


def ask(
    answer: Callable[[list[str]], Sequence[str]],
    prompts: Sequence[str],
    objectives: Objectives,
    rate: Callable[[str, str], Mapping[str, float]],
    conditions: Sequence[Condition],
) -> list[Asked]:
    """Asks for every condition with every prompt, and has the answers rated.

    Before the first answer the rater is tried on the prompts themselves, up to the first that it gives a level.

    Args:
        answer: answers of the model to some prompts, tokens in front included.
        prompts: instructions without tokens.
        objectives: write the tokens.
        rate: level by objective of an instruction (without tokens) and its answer; an objective that does not apply is absent,
            or None.
        conditions: what to ask for.

    Raises:
        ValueError: a rater that raises, gives no mapping, a level that is no finite number, or no objective a level.
    """
    if not any(_rated(rate, prompt, prompt, objectives) for prompt in prompts):
        raise ValueError(
            f"ask: {_name(rate)} rates none of {', '.join(objectives)}; it must return a mapping with levels of those objectives"
        )
    asked = [(condition, prompt) for condition in conditions for prompt in prompts]
    texts = answer([objectives.prefix(condition) + prompt for condition, prompt in asked])
    return [
        Asked(dict(condition), _rated(rate, prompt, text, objectives))
        for (condition, prompt), text in zip(asked, texts, strict=True)
    ]


def _rated(rate: Callable[[str, str], Any], prompt: str, text: str, objectives: Objectives) -> dict[str, float]:
    """The levels of an answer that the model has objectives for, as finite numbers."""
    try:
        found = rate(prompt, text)
    except Exception as error:  # somebody else's code
        raise ValueError(
            f"ask: {_name(rate)} raised {type(error).__name__}: {error}, for the instruction {prompt[:60]!r}; it must return a "
            "mapping of objectives to levels"
        ) from error
    levels = {k: found.get(k) for k in objectives} if isinstance(found, Mapping) else {"": found}
    wrong = [k for k, v in levels.items() if not k or not (v is None or (isinstance(v, Real) and math.isfinite(v)))]
    if wrong:
        raise ValueError(
            f"ask: {_name(rate)} returned {repr(found)[:80]} for the instruction {prompt[:60]!r}; allowed is a mapping of "
            f"{', '.join(objectives)} to finite numbers, or to None where one does not apply"
        )
    return {name: float(level) for name, level in levels.items() if level is not None}


def _name(rate: object) -> str:
    return f"{getattr(rate, '__module__', '')}:{getattr(rate, '__qualname__', type(rate).__name__)}"


@dataclass
class ControlReport:
    """What answers to many conditions show.

    Attributes:
        objectives: Names and scales.
        answers: All of them.
    """

    objectives: Objectives
    answers: Sequence[Asked] = field(repr=False)

    def mean(self, name: str, condition: Condition) -> float:
        """Mean level of an objective under exactly this condition; NaN where nothing was asked or rated."""
        levels = [a.achieved[name] for a in self.answers if a.condition == condition and name in a.achieved]
        return math.fsum(levels) / len(levels) if levels else math.nan

    def rho(self, name: str, controlled: Sequence[str]) -> float:
        """Spearman's ρ of an objective's requested and achieved level where exactly these are controlled."""
        pairs = [
            (a.condition[name], a.achieved[name])
            for a in self.answers
            if set(a.condition) == set(controlled) and name in a.achieved
        ]
        return spearman(*zip(*pairs, strict=True)) if len(pairs) > 1 else math.nan

    def curve(self, name: str) -> list[tuple[float, float]]:
        """(level asked for, mean level reached) of an objective that is controlled alone."""
        levels = sorted({a.condition[name] for a in self.answers if set(a.condition) == {name}})
        return [(level, self.mean(name, {name: level})) for level in levels]

    def falls(self) -> dict[tuple[str, str], tuple[float, float]]:
        """By (controlled objective, free objective): what the free one loses against no condition, as a share of its scale;
        on average over the levels of the controlled one, and at its worst level."""
        found = {}
        for controlled in self.objectives:
            levels = [level for level, _ in self.curve(controlled)]
            for free in self.objectives:
                if free == controlled or not levels:
                    continue
                low, high = self.objectives.scales[free]
                before = self.mean(free, {})
                lost = [(before - self.mean(free, {controlled: level})) / (high - low) for level in levels]
                found[controlled, free] = (math.fsum(lost) / len(lost), max(lost))
        return found

    def points(self, first: str, second: str) -> dict[Point | None, Point]:
        """Mean levels of two objectives by the levels asked for both, and by None for no condition at all."""
        asked = dict.fromkeys(
            (a.condition[first], a.condition[second]) for a in self.answers if set(a.condition) == {first, second}
        )
        found: dict[Point | None, Point] = {}
        for levels in asked:
            condition = dict(zip((first, second), levels, strict=True))
            found[levels] = (self.mean(first, condition), self.mean(second, condition))
        if any(not a.condition for a in self.answers):
            found[None] = (self.mean(first, {}), self.mean(second, {}))
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row per objective and set of controlled ones that holds it: ρ, and the mean distance from the level asked for."""
        sets = dict.fromkeys(tuple(n for n in self.objectives if n in a.condition) for a in self.answers if a.condition)
        found = []
        for controlled in sorted(sets, key=len):
            for name in controlled:
                mine = [a for a in self.answers if set(a.condition) == set(controlled) and name in a.achieved]
                distance = [abs(a.condition[name] - a.achieved[name]) for a in mine]
                found.append(
                    {
                        "controlled": "+".join(controlled),
                        "objective": name,
                        "rho": self.rho(name, controlled),
                        "distance": math.fsum(distance) / len(distance) if distance else math.nan,
                        "answers": len(mine),
                    }
                )
        return found


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """The points that no other exceeds in one coordinate without being lower in the other, by their first coordinate.

    Args:
        points: higher is better in both.
    """
    front: list[Point] = []
    for point in sorted(set(points), key=lambda p: (-p[0], -p[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return front[::-1]


def covers(front: Sequence[Point], points: Sequence[Point], tolerance: Point = (0.0, 0.0)) -> list[Point]:
    """The points that a front does not cover: those with no point of the front at least as high in both coordinates.

    Args:
        front: of one model.
        points: of another.
        tolerance: by how much a coordinate may fall short, such as the uncertainty of a mean.
    """
    return [point for point in points if not any(all(f[i] >= point[i] - tolerance[i] for i in (0, 1)) for f in front)]


def hypervolume(points: Sequence[Point], corner: Point) -> float:
    """Area between a front and the worst corner.

    Args:
        points: higher is better in both; those below the corner count for nothing.
        corner: lowest levels of both objectives.
    """
    area, before = 0.0, corner[0]
    for x, y in pareto_front([p for p in points if p[0] > corner[0] and p[1] > corner[1]]):
        area += (x - before) * (y - corner[1])
        before = x
    return area
