r"""Rows of answers with ratings per objective to `Rated` records.

| schema | columns | a rating stands in |
|---|---|---|
| cpo | instruction, responses: a list of {response, …} (CPO's item schema) | `Honesty_Rating`, `honesty_rating` or `honesty` |
| completions | instruction, completions: UltraFeedback and UltraSafety | annotations: {honesty: {Rating}}, or a list of such |

Helpfulness may also stand in `Helpful_Rating`. Ratings are read as fulgurite.data.readers.ultrafeedback describes: a missing
one, null and "N/A" are no rating, 0 is one. An answer that has no rating at all, or a rating that is no number or outside its
scale, is left out and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from fulgurite.data.conditions.objectives import Objectives
from fulgurite.data.conditions.rated import Rated
from fulgurite.data.readers.base import BadRow, RowReader, Schema
from fulgurite.data.readers.ultrafeedback import OUTSIDE, annotation, rating
from fulgurite.data.records.conversation import Conversation, Turn, checked
from fulgurite.data.records.findings import Finding, place
from fulgurite.data.sources.formats import Row
from fulgurite.data.sources.locate import RowSource

__all__ = ["RATED_SCHEMAS", "RatedReader"]

Read = Iterator[Rated | Finding]
Given = Callable[[Mapping[str, Any], str], object]

_ALIASES = {"helpfulness": ("helpful",)}
RATED_SCHEMAS = ("cpo", "completions")


def _schemas(objectives: Objectives) -> dict[str, Schema[Rated]]:
    """What a row holds depends on the objectives that are looked for."""
    return {
        "cpo": Schema(("instruction", "responses"), (), partial(_read, objectives, "responses", _column)),
        "completions": Schema(
            ("instruction", "completions"), (), partial(_read, objectives, "completions", annotation)
        ),
    }


def _read(objectives: Objectives, column: str, given: Given, row: Row, source: str, number: int) -> Read:
    where, items = place(source, number), row[column]
    if not isinstance(items, Sequence) or isinstance(items, str):
        raise BadRow("not a list", f"{column!r} holds {type(items).__name__}; a list of answers is needed")
    prompt = (Turn("user", row["instruction"]),)
    answers, ratings = [], []
    for index, item in enumerate(items, 1):
        try:
            rated = _rated(objectives, item, given)
            _check_text((*prompt, Turn("assistant", item["response"])), source, number)
        except BadRow as error:
            reason, detail = f"an answer left out: {error.reason}", f"answer {index}: {error.detail}"
            yield Finding(where, reason, detail, lost=False)
            continue
        answers.append(item["response"])
        ratings.append(rated)
    if not answers:
        yield Finding(where, "no rated answer", f"none of {len(items)} answers can be used")
        return
    yield Rated(prompt, tuple(answers), tuple(ratings), source, number)


def _rated(objectives: Objectives, item: object, given: Given) -> dict[str, float]:
    """The ratings of an answer by objective."""
    if not isinstance(item, Mapping) or "response" not in item:
        raise BadRow("not an answer", "it has no 'response'")
    found = {}
    for name in objectives:
        value = rating(given(item, name), name)
        if value is None:
            continue
        if objectives.outside(name, value):
            low, high = objectives.scales[name]
            raise BadRow(OUTSIDE, f"{name} is {value:g}; the scale goes from {low:g} to {high:g}")
        found[name] = value
    if not found:
        raise BadRow("not rated", f"it has no rating of {', '.join(objectives)}")
    return found


class RatedReader(RowReader[Rated]):
    """Reads sources one after the other, as one stream of rated answers.

    After a reading `tally` holds what was found, and `schemas` the schema of each source by its name.

    Args:
        sources: what to read.
        objectives: the ratings to look for, and their scales.
        schema: one of `RATED_SCHEMAS`, or "auto" to guess it from the columns of each source.
        columns: the source's column for columns of the schema that are called otherwise there.
        on_bad_row: rows without a rated answer are counted and left out ("skip"),
            as long as they are at most a tenth of all ("few"), or the first one stops the reading ("error").
    """

    noun = "row of rated answers"

    def __init__(
        self,
        sources: Sequence[RowSource],
        objectives: Objectives,
        schema: str = "auto",
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "skip",
    ) -> None:
        self.table = _schemas(objectives)
        super().__init__(sources, schema, columns, on_bad_row)

    def _checked(self, item: Rated) -> Read:
        yield item  # its answers were checked one by one


def _column(item: Mapping[str, Any], name: str) -> object:
    """The first column that holds the rating and is not empty."""
    lower = {str(key).lower(): held for key, held in item.items()}
    given = [lower.get(key) for word in (name.lower(), *_ALIASES.get(name, ())) for key in (f"{word}_rating", word)]
    return next((held for held in given if held is not None), None)


def _check_text(turns: tuple[Turn, ...], source: str, number: int) -> None:
    for item in checked(Conversation(turns, source, number)):
        if isinstance(item, Finding):
            raise BadRow(item.reason, item.detail)
