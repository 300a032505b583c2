r"""Answers rated for several objectives, what they are worth under a condition, and which conditions are drawn.

With p_i the rating of an answer for objective i, c_i the level asked for, ω_i weights that sum to one and λ_i > 0
(CPO, arXiv 2402.19085, section 3):

    g = Σ_i ω_i g_i,    g_i = −λ_i |p_i − c_i|  where i is controlled,    g_i = p_i  where it is free

so controlled objectives shall be met and free ones be high. Pairs of CDPO are ordered by g; equal g is a tie.

An objective that an answer is not rated for is absent from its ratings, which is not a rating of 0. Answers are compared
only where all have a rating of each controlled objective, and over the free objectives that all have a rating of.

Conditions are drawn in buckets, as published, without the faults of the published code (specified in the tests): |p − c| is
the distance, an exact match is 0 and no missing value, 0 is a rating, and a bucket takes those rows first that were used
least so far, in random order, so that no two buckets eat the same leading rows of the file.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fulgurite.data.conditions.objectives import Condition, Objectives
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import place

__all__ = [
    "CONTROLS",
    "Bucket",
    "Rated",
    "Ratings",
    "bucket_name",
    "comparable",
    "draw_conditions",
    "drawn_condition",
    "row_conditions",
    "tied_pairs",
    "value",
    "weights_of",
]

CONTROLS = ("random", "all", "none")
_DIGITS = 9  # sums of equal parts in another order are a tie

_log = logging.getLogger(__name__)

Ratings = Mapping[str, float]
Bucket = tuple[Mapping[str, float | None], int]


@dataclass(frozen=True)
class Rated:
    """Answers to one prompt with their ratings.

    Attributes:
        prompt: The turns before the answer, the last of them the user's.
        completions: The answers.
        ratings: Of each answer, the rating by objective; what was not rated is absent.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row) in `source`, counted from 1.
        tag: What metrics by group go by.
    """

    prompt: tuple[Turn, ...]
    completions: tuple[str, ...]
    ratings: tuple[Ratings, ...]
    source: str
    row: int
    tag: str | None = None

    @property
    def where(self) -> str:
        """The place of the row, for messages."""
        return place(self.source, self.row)


def weights_of(objectives: Objectives, given: Mapping[str, float] | None, option: str) -> dict[str, float]:
    """A factor for each objective, from those that were given; 1 for the others.

    Args:
        objectives: all of them.
        given: some factors.
        option: what messages call it.

    Raises:
        ValueError: a factor of an unknown objective, a negative one, or none above 0.
    """
    unknown = sorted(set(given or ()) - set(objectives))
    try:
        found = {name: float((given or {}).get(name, 1.0)) for name in objectives}
    except (TypeError, ValueError, OverflowError):
        found = dict.fromkeys(objectives, 0.0)  # refused below
    if unknown or any(not 0 <= factor < float("inf") for factor in found.values()) or not any(found.values()):
        raise ValueError(
            f"{option}: {dict(given or {})} was given; the objectives are {', '.join(objectives)}, and each takes a number of at "
            "least 0, one of them above; correct it"
        )
    return found


def value(
    ratings: Ratings,
    condition: Condition,
    weights: Mapping[str, float],
    distance_weights: Mapping[str, float],
    over: Iterable[str] | None = None,
) -> float:
    """g of an answer.

    Args:
        ratings: of the answer.
        condition: the levels of the controlled objectives.
        weights: ω by objective; divided by their sum over all objectives.
        distance_weights: λ by objective.
        over: the objectives that count; None takes those in ``weights``.

    Raises:
        KeyError: the answer has no rating of an objective that counts.
    """
    total = sum(weights.values())
    found = 0.0
    for name in weights if over is None else over:
        rating = ratings[name]
        part = rating if name not in condition else -distance_weights[name] * abs(rating - condition[name])
        found += weights[name] / total * part
    return round(found, _DIGITS)


def comparable(ratings: Sequence[Ratings], condition: Condition) -> tuple[list[int], list[str]]:
    """Which answers can be compared under a condition, and over which objectives.

    Args:
        ratings: of the answers.
        condition: the levels of the controlled objectives.

    Returns:
        Places of the answers that have a rating of every controlled objective, and the objectives that all of these are rated
        for, the controlled ones included.
    """
    places = [i for i, rated in enumerate(ratings) if all(name in rated for name in condition)]
    names = dict.fromkeys(name for i in places for name in ratings[i])
    return places, [name for name in names if all(name in ratings[i] for i in places)]


def tied_pairs(scores: Sequence[float]) -> int:
    """Number of pairs of answers with equal scores.

    Args:
        scores: of the answers.
    """
    return sum(scores.count(score) - 1 for score in scores) // 2


def draw_conditions(
    items: Sequence[Sequence[Ratings]],
    objectives: Objectives,
    buckets: Sequence[Bucket] | None,
    pairs_of: Callable[[int, Condition], int],
    control: str = "random",
    per_row: int = 1,
    seed: int = 0,
) -> list[list[dict[str, float]]]:
    """The conditions under which each item is compared.

    With buckets, each is filled in turn: among the items that have an answer of the bucket's levels ("any": of any), those
    used least so far come first, in random order; an item's condition is the levels of one such answer, drawn at random;
    the bucket is full once its items have as many pairs as it wants. Without buckets every item gets ``per_row`` conditions
    at the levels of a random answer.

    Args:
        items: per item, the ratings of its answers.
        objectives: all of them.
        buckets: levels (None: any) of the controlled objectives, and number of pairs.
        pairs_of: how many pairs an item, by its place, has under a condition; where it has none, no bucket takes it.
        control: without buckets, which objectives are controlled: a "random" subset of the rated ones, "all", or "none".
        per_row: conditions of each item where there are no buckets; equal ones count once.
        seed: equal seeds draw equally.

    Returns:
        Per item its conditions, without repetition.
    """
    if buckets is None:
        return [row_conditions(i, ratings, objectives, control, per_row, seed) for i, ratings in enumerate(items)]
    found: list[list[dict[str, float]]] = [[] for _ in items]
    for number, (levels, wanted) in enumerate(buckets):
        draw = random.Random(f"bucket|{seed}|{number}")
        matching = {i: places for i, ratings in enumerate(items) if (places := _matching(ratings, levels))}
        pairs = 0
        for _, _, i in sorted((len(found[i]), draw.random(), i) for i in matching):
            if pairs >= wanted:
                break
            chosen = items[i][matching[i][int(draw.random() * len(matching[i]))]]
            condition = {name: chosen[name] for name in objectives if name in levels}
            size = pairs_of(i, condition)
            if size and condition not in found[i]:
                found[i].append(condition)
                pairs += size
        if pairs < wanted:
            _log.warning("the bucket %s has %d of the %d pairs that it wants", bucket_name(levels), pairs, wanted)
    return found


def row_conditions(
    index: int, ratings: Sequence[Ratings], objectives: Objectives, control: str, per_row: int, seed: int
) -> list[dict[str, float]]:
    """The conditions of one item where there are no buckets: they hang on its place alone, not on other items.

    Args:
        index: its place.
        ratings: of its answers.
        objectives: all of them.
        control: as of `draw_conditions`.
        per_row: as of `draw_conditions`.
        seed: equal seeds draw equally.
    """
    draw = random.Random(f"conditions|{seed}|{index}")
    found: list[dict[str, float]] = []
    for _ in range(per_row):
        condition = drawn_condition(draw, ratings, objectives, control)
        if condition not in found:
            found.append(condition)
    return found


def bucket_name(levels: Mapping[str, float | None]) -> str:
    """A bucket's levels as they are typed.

    Args:
        levels: of the controlled objectives; None: any.
    """
    return ",".join(f"{name}={'any' if level is None else f'{level:g}'}" for name, level in levels.items()) or "none"


def drawn_condition(
    draw: random.Random, ratings: Sequence[Ratings], objectives: Objectives, control: str
) -> dict[str, float]:
    """A condition at the levels of a random answer.

    Args:
        draw: the stream.
        ratings: of the answers, each with one rating at least.
        objectives: all of them.
        control: which are controlled: a "random" subset of the rated ones, "all", or "none".
    """
    # random() alone is the same on every version of Python.
    chosen = ratings[int(draw.random() * len(ratings))]
    wanted = {name: control == "all" or (control == "random" and draw.random() < 0.5) for name in objectives}
    return {name: chosen[name] for name in objectives if name in chosen and wanted[name]}


def _matching(ratings: Sequence[Ratings], levels: Mapping[str, float | None]) -> list[int]:
    """Places of the answers with these levels."""
    return [
        i
        for i, rated in enumerate(ratings)
        if all(name in rated and level in (None, rated[name]) for name, level in levels.items())
    ]
