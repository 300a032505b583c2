r"""Rows of answers with ratings per objective to `Rated` records.

| schema | columns | a rating stands in |
|---|---|---|
| cpo | instruction, responses: a list of {response, …} (CPO's item schema) | `Honesty_Rating`, `honesty_rating` or `honesty` |
| completions | instruction, completions: UltraFeedback and UltraSafety | annotations: {honesty: {Rating}}, or a list of such |

Helpfulness may also stand in `Helpful_Rating`. Ratings are numbers or texts of numbers. What is missing, null or "N/A" is no
rating; 0 is one. An answer without any rating, or with one that is no number or outside its scale, is left out and counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fulgurite.data.conditions.objectives import Objectives
from fulgurite.data.conditions.rated import Rated
from fulgurite.data.readers.base import BadRow, RowReader, Schema, column_names
from fulgurite.data.records.conversation import Conversation, Turn, checked
from fulgurite.data.records.findings import Finding, place
from fulgurite.data.sources.formats import Row
from fulgurite.data.sources.locate import RowSource

__all__ = ["RATED_SCHEMAS", "RatedReader"]

Read = Iterator[Rated | Finding]

_ABSENT = ("n/a", "na", "none", "null", "")
_ALIASES = {"helpfulness": ("helpful",)}
_LISTS = {"cpo": "responses", "completions": "completions"}


def _unread(row: Row, source: str, number: int) -> Read:
    """The table names columns only: what a row holds depends on the objectives, which the reader knows."""
    raise NotImplementedError


_SCHEMAS: dict[str, Schema[Rated]] = {
    "cpo": Schema(("instruction", "responses"), (), _unread),
    "completions": Schema(("instruction", "completions"), (), _unread),
}
RATED_SCHEMAS = tuple(_SCHEMAS)


class RatedReader(RowReader[Rated]):
    """Reads sources one after the other, as one stream of rated answers.

    After a reading `tally` holds what was found, and `schemas` the schema of each source by its name.

    Args:
        sources: what to read.
        objectives: the ratings to look for, and their scales.
        schema: one of `RATED_SCHEMAS`, or "auto" to guess it from the columns of each source.
        columns: the source's column for columns of the schema that are called otherwise there.
        on_bad_row: "skip" counts rows without a rated answer and leaves them out; "error" stops at the first.
    """

    noun = "row of rated answers"
    table = _SCHEMAS

    def __init__(
        self,
        sources: Sequence[RowSource],
        objectives: Objectives,
        schema: str = "auto",
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "skip",
    ) -> None:
        self.objectives = objectives
        super().__init__(sources, schema, columns, on_bad_row)

    def _read(self, schema: str, row: Row, source: str, number: int) -> Read:
        where = place(source, number)
        missing = [name for name in self.table[schema].needed if name not in row]
        if missing:
            yield Finding(where, "missing column", f"no {', '.join(map(repr, missing))}; found {column_names(row)}")
            return
        items = row[_LISTS[schema]]
        if not isinstance(items, Sequence) or isinstance(items, str):
            held = type(items).__name__
            yield Finding(where, "not a list", f"{_LISTS[schema]!r} holds {held}; a list of answers is needed")
            return
        prompt = (Turn("user", row["instruction"]),)
        answers, ratings = [], []
        for index, item in enumerate(items, 1):
            try:
                rated = self._rated(item, schema == "completions")
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

    def _rated(self, item: object, annotated: bool) -> dict[str, float]:
        """The ratings of an answer by objective."""
        if not isinstance(item, Mapping) or "response" not in item:
            raise BadRow("not an answer", "it has no 'response'")
        found = {}
        for name in self.objectives:
            given = _annotation(item, name) if annotated else _column(item, name)
            rating = _number(given, name)
            if rating is None:
                continue
            if self.objectives.outside(name, rating):
                low, high = self.objectives.scales[name]
                raise BadRow(
                    "rating outside its scale", f"{name} is {rating:g}; the scale goes from {low:g} to {high:g}"
                )
            found[name] = rating
        if not found:
            raise BadRow("not rated", f"it has no rating of {', '.join(self.objectives)}")
        return found


def _column(item: Mapping[str, Any], name: str) -> object:
    """The first column that holds the rating and is not empty."""
    lower = {str(key).lower(): held for key, held in item.items()}
    given = [lower.get(key) for word in (name.lower(), *_ALIASES.get(name, ())) for key in (f"{word}_rating", word)]
    return next((held for held in given if held is not None), None)


def _annotation(item: Mapping[str, Any], name: str) -> object:
    annotations = item.get("annotations")
    entry = annotations.get(name) if isinstance(annotations, Mapping) else None
    if isinstance(entry, Sequence) and not isinstance(entry, str):
        entry = entry[0] if entry else None  # UltraSafety keeps a list of judgements
    return entry.get("Rating") if isinstance(entry, Mapping) else None


def _number(given: object, name: str) -> float | None:
    """A rating as a number; None for none, which 0 is not."""
    if given is None or (isinstance(given, str) and given.strip().lower() in _ABSENT):
        return None
    try:
        rating = math.nan if isinstance(given, bool) else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    if not math.isfinite(rating):
        raise BadRow("rating is no number", f"{name} is {str(given)[:40]!r}; a number or 'N/A' is needed")
    return rating


def _check_text(turns: tuple[Turn, ...], source: str, number: int) -> None:
    for item in checked(Conversation(turns, source, number)):
        if isinstance(item, Finding):
            raise BadRow(item.reason, item.detail)
