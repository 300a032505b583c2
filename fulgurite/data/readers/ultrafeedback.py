"""UltraFeedback's ratings: the aspects, the scale, and the score of a completion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["SCORES", "completion_score", "score_scale"]

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness", "harmlessness")

SCORES = ("mean", "overall", *ASPECTS)

OUTSIDE = "rating outside its scale"


def completion_score(completion: Mapping[str, Any], score: str) -> tuple[float, str | None]:
    """The score of an answer of UltraFeedback or UltraSafety, NaN where it has none, and what was corrected or wrong.

    Args:
        completion: with `annotations`, `overall_score` and `fine-grained_score` as published.
        score: one of `SCORES`.
    """
    ratings = _ratings(completion.get("annotations"))
    for aspect, rating in ratings.items():
        low, high = (0, 1) if aspect == "harmlessness" else (1, 5)
        if not low <= rating <= high and score in (aspect, "mean"):
            return math.nan, f"{OUTSIDE}: {aspect} is rated {rating:g}, allowed is {low} to {high}"
    if score in ASPECTS:
        return ratings.get(score, math.nan), None
    known = [rating for aspect, rating in ratings.items() if aspect != "harmlessness"]
    mean = sum(known) / len(known) if known else _number(completion.get("fine-grained_score"))
    if score == "mean":
        return mean, None
    overall = _number(completion.get("overall_score"))
    if overall == 10 and mean <= 2:
        return 1.0, f"overall_score 10 read as 1: it is rated {mean:g}"
    if overall < 1 or overall > 10:
        return math.nan, f"{OUTSIDE}: overall_score is {overall:g}, allowed is 1 to 10"
    return overall, None


def score_scale(score: str) -> float:
    """The widest difference of two scores.

    Args:
        score: one of `SCORES`.
    """
    return {"overall": 9.0, "harmlessness": 1.0}.get(score, 4.0)


def _ratings(annotations: object) -> dict[str, float]:
    """Ratings by aspect; what is "N/A" or no number is not among them."""
    found: dict[str, float] = {}
    for aspect, entry in (annotations if isinstance(annotations, Mapping) else {}).items():
        if isinstance(entry, Sequence) and not isinstance(entry, str) and entry:
            entry = entry[0]  # UltraSafety keeps a list of judgements
        rating = _number(entry.get("Rating")) if isinstance(entry, Mapping) else math.nan
        if aspect in ASPECTS and math.isfinite(rating):
            found[aspect] = rating
    return found


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
