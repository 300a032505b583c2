"""Preference rows of rated completions, by each rule in use. A rule registers itself; rows have the columns of the published set.

| rule | who made it | what it takes |
|---|---|---|
| all | UltraFeedback, Eurus | every two completions with different means |
| zephyr | HuggingFaceH4/ultrafeedback_binarized | the best overall score, the first on a tie, against another one; ties stay |
| argilla | argilla/ultrafeedback-binarized-preferences | the best mean against one that is lower (equal where none is) |
| argilla_cleaned | …-cleaned | the same without TruthfulQA and ties |
| argilla_kto | …-cleaned-kto | its answers as labelled rows |
| chendrag | ChenDRAG/ultrafeedback_reward | exactly four completions, the best overall score first |
| trl | TRL's example | every completion, desirable where one aspect is rated 5 |

zephyr's first version seeded its random numbers anew in each row, so that the rejected answer was nearly always the first one; here
each row has its own seed.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.data.readers.ultrafeedback import completion_score

__all__ = ["RULES", "Case", "Rule", "rows_of_rule"]

_CONTAMINATED = "truthful_qa"
_FULL = 4  # completions


@dataclass(frozen=True)
class Case:
    """One row with its completions.

    Attributes:
        instruction: the prompt.
        source: where it is from.
        completions: as published, with ratings.
        seed: of the row's random choices.
        aspect: the aspect that trl looks at.
    """

    instruction: str
    source: str
    completions: Sequence[Mapping[str, Any]]
    seed: str
    aspect: str = "helpfulness"

    def means(self) -> list[float]:
        """The mean rating of each completion; NaN where it has no rating."""
        return [completion_score(completion, "mean")[0] for completion in self.completions]

    def overall(self) -> list[float]:
        """The overall score of each completion as the judge gave it; NaN where there is none."""
        scores = (completion.get("overall_score") for completion in self.completions)
        return [math.nan if score is None else float(score) for score in scores]

    def pick(self, places: Sequence[int]) -> int:
        """One place at random."""
        return places[int(random.Random(self.seed).random() * len(places))]

    def said(self, place: int) -> str:
        """A completion's text."""
        return str(self.completions[place]["response"])

    def turns(self, place: int) -> list[dict[str, str]]:
        """Prompt and completion as messages."""
        return [{"content": self.instruction, "role": "user"}, {"content": self.said(place), "role": "assistant"}]


# Rows of a case; a text in place of a row says why there is none.
Rule = Callable[[Case], Iterator["dict[str, Any] | str"]]
RULES: dict[str, Rule] = {}


def _rule(name: str) -> Callable[[Rule], Rule]:
    def add(rule: Rule) -> Rule:
        RULES[name] = rule
        return rule

    return add


def rows_of_rule(name: str, case: Case) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of a case by a rule, and why there are no more.

    Args:
        name: of RULES.
        case: completions with ratings.
    """
    found = list(RULES[name](case))
    return [row for row in found if isinstance(row, dict)], [why for why in found if isinstance(why, str)]


def _scored(scores: Sequence[float]) -> list[int]:
    return [place for place, score in enumerate(scores) if not math.isnan(score)]


@_rule("all")
def _all(case: Case) -> Iterator[dict[str, Any] | str]:
    means = case.means()
    places = _scored(means)
    pairs = [(i, j) for i in places for j in places if means[i] > means[j] and case.said(i) != case.said(j)]
    if not pairs:
        yield "no two completions with different means"
    for better, worse in sorted(pairs):
        yield {
            "prompt": case.instruction, "chosen": case.turns(better), "rejected": case.turns(worse),
            "score_chosen": means[better], "score_rejected": means[worse], "source": case.source,
        }  # fmt: skip


@_rule("zephyr")
def _zephyr(case: Case) -> Iterator[dict[str, Any] | str]:
    if case.source == _CONTAMINATED:
        yield "a prompt of TruthfulQA"
        return
    scores = case.overall()
    places = _scored(scores)
    if len(places) < 2:
        yield "fewer than two completions with a score"
        return
    best = max(places, key=lambda place: scores[place])
    others = [p for p in places if p != best and (case.said(p), scores[p]) != (case.said(best), scores[best])]
    if not others:
        yield "all completions are the same"
        return
    worse = case.pick(others)
    yield {
        "prompt": case.instruction, "prompt_id": hashlib.sha256(case.instruction.encode()).hexdigest(),
        "chosen": case.turns(best), "rejected": case.turns(worse), "messages": case.turns(best),
        "score_chosen": scores[best], "score_rejected": scores[worse],
    }  # fmt: skip


def _best_mean(case: Case) -> tuple[int, int, list[float]] | str:
    means = case.means()
    places = _scored(means)
    if len(places) < 2:
        return "fewer than two completions with a mean"
    best = max(places, key=lambda place: means[place])
    lower = [place for place in places if means[place] < means[best]]
    return best, case.pick(lower or [place for place in places if place != best]), means


@_rule("argilla")
def _argilla(case: Case) -> Iterator[dict[str, Any] | str]:
    found = _best_mean(case)
    if isinstance(found, str):
        yield found
        return
    best, worse, means = found
    yield {
        "source": case.source, "instruction": case.instruction, "chosen_response": case.said(best),
        "rejected_response": case.said(worse), "chosen_avg_rating": means[best], "rejected_avg_rating": means[worse],
        "chosen_model": case.completions[best]["model"],
    }  # fmt: skip


@_rule("argilla_cleaned")
def _cleaned(case: Case) -> Iterator[dict[str, Any] | str]:
    found = "a prompt of TruthfulQA" if case.source == _CONTAMINATED else _best_mean(case)
    if isinstance(found, str):
        yield found
        return
    best, worse, means = found
    if means[best] == means[worse]:
        yield "a tie"
        return
    yield {
        "source": case.source, "prompt": case.instruction, "chosen": case.turns(best), "chosen-rating": means[best],
        "chosen-model": case.completions[best]["model"], "rejected": case.turns(worse),
        "rejected-rating": means[worse], "rejected-model": case.completions[worse]["model"],
    }  # fmt: skip


@_rule("argilla_kto")
def _kto(case: Case) -> Iterator[dict[str, Any] | str]:
    for row in _cleaned(case):
        if isinstance(row, str):
            yield row
            continue
        for side, label in (("chosen", True), ("rejected", False)):
            yield {
                "prompt": [row[side][0]], "completion": [row[side][1]], "label": label,
                "model": row[f"{side}-model"], "average_rating": row[f"{side}-rating"],
            }  # fmt: skip


@_rule("chendrag")
def _chendrag(case: Case) -> Iterator[dict[str, Any] | str]:
    scores = case.overall()
    if len(case.completions) != _FULL or len(_scored(scores)) != _FULL:
        yield "not four completions with a score"
        return
    order = sorted(range(_FULL), key=lambda place: -scores[place])
    answers: dict[str, Any] = {f"A{number}": case.turns(place) for number, place in enumerate(order)}
    yield {"prompt": case.instruction, **answers, **{f"score_A{n}": scores[place] for n, place in enumerate(order)}}


@_rule("trl")
def _trl(case: Case) -> Iterator[dict[str, Any] | str]:
    for place, completion in enumerate(case.completions):
        rating, _ = completion_score(completion, case.aspect)
        if math.isnan(rating):
            yield f"{case.aspect} is not rated"
            continue
        prompt, answer = case.turns(place)
        yield {"prompt": [prompt], "completion": [answer], "label": rating >= 5}
