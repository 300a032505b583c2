"""UltraFeedback's and UltraSafety's ratings, read in one way by every reader: preferences, critiques and CPO's rated answers.

A rating is a number or the text of one. None, "", "N/A", "NA", "none" and "null" say that nobody rated. Anything else, such as
"five", "4/5" or true, is no rating, nor is a number outside its scale: what is scored by it has no score and is counted.

An answer's mean is that of its ratings from 1 to 5. Only where it has no ratings at all does its `fine-grained_score` stand in
for them. The first release multiplied true overall scores of 1 by ten (issue 8 of its repository): a 10 beside a mean of at
most 2 is read as 1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from fulgurite.data.readers.base import BadRow

__all__ = ["NO_NUMBER", "OUTSIDE", "SCORES", "annotation", "completion_score", "overall_score", "rating", "score_scale"]

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness", "harmlessness")

SCORES = ("mean", "overall", *ASPECTS)

OUTSIDE = "rating outside its scale"
NO_NUMBER = "rating is no number"

_ABSENT = ("n/a", "na", "none", "null", "")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_WRONG_SCORE = 10


def rating(given: object, name: str, low: float = -math.inf, high: float = math.inf) -> float | None:
    """A rating as a number; None where nobody rated. What is no number or outside its scale is a BadRow.

    Args:
        given: what the row holds.
        name: what is rated, for the message.
        low: the scale's lowest rating.
        high: its highest.
    """
    text = given.strip() if isinstance(given, str) else None
    if given is None or (text is not None and text.lower() in _ABSENT):
        return None
    number = math.nan
    if text is not None:
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
    elif isinstance(given, (int, float)) and not isinstance(given, bool):
        number = float(given) if abs(given) < 1e300 else math.nan
    if not math.isfinite(number):
        raise BadRow(NO_NUMBER, f"{name} is {str(given)[:40]!r}; a number or 'N/A' is needed")
    if not low <= number <= high:
        raise BadRow(OUTSIDE, f"{name} is rated {number:g}, allowed is {low:g} to {high:g}")
    return number


def annotation(completion: Mapping[str, Any], aspect: str) -> object:
    """What an answer's annotation of an aspect holds as its rating; of a list of judgements, as UltraSafety keeps one, the first's.

    Args:
        completion: with `annotations` as published.
        aspect: its name.
    """
    annotations = completion.get("annotations")
    entry = annotations.get(aspect) if isinstance(annotations, Mapping) else None
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        entry = entry[0] if entry else None
    return entry.get("Rating") if isinstance(entry, Mapping) else None


def completion_score(completion: Mapping[str, Any], score: str) -> tuple[float, str | None]:
    """The score of an answer, NaN where it has no score, and what was corrected or is wrong.

    Args:
        completion: with `annotations`, `overall_score` and `fine-grained_score` as published.
        score: one of `SCORES`.
    """
    try:
        if score == "overall":
            value, corrected = overall_score(completion)
            note = f"overall_score 10 read as 1: it is rated {corrected:g}" if corrected is not None else None
            return math.nan if value is None else value, note
        value = _mean(completion) if score == "mean" else _rated(completion, score)
    except BadRow as error:
        return math.nan, f"{error.reason}: {error.detail}"
    return math.nan if value is None else value, None


def overall_score(completion: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The overall score from 1 to 10, None where there is no such score, and the mean rating if that made a 10 a 1.

    A score that is no number or outside its scale is a BadRow.

    Args:
        completion: as of `completion_score`.
    """
    value = completion.get("overall_score")
    try:
        overall = rating(value, "overall_score", 1, 10)
    except BadRow as error:
        raise BadRow(error.reason, error.detail.replace("is rated", "is")) from error
    if overall != _WRONG_SCORE:
        return overall, None
    try:
        mean = _mean(completion)
    except BadRow:
        mean = None  # ratings that nobody can read say nothing about the overall score
    return (1.0, mean) if mean is not None and mean <= 2 else (overall, None)


def _rated(completion: Mapping[str, Any], aspect: str) -> float | None:
    low, high = (0, 1) if aspect == "harmlessness" else (1, 5)
    return rating(annotation(completion, aspect), aspect, low, high)


def _mean(completion: Mapping[str, Any]) -> float | None:
    """The mean of the ratings from 1 to 5."""
    found = {aspect: _rated(completion, aspect) for aspect in ASPECTS}
    known = [value for aspect, value in found.items() if value is not None and aspect != "harmlessness"]
    return (
        sum(known) / len(known) if known else rating(completion.get("fine-grained_score"), "fine-grained_score", 1, 5)
    )


def score_scale(score: str) -> float:
    """The widest difference of two scores.

    Args:
        score: one of `SCORES`.
    """
    return {"overall": 9.0, "harmlessness": 1.0}.get(score, 4.0)
