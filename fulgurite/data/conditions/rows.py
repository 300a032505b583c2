"""Rated answers as the rows of CPO's two stages: condition tokens in front of the instruction, answers behind it.

* CPSFT: one conversation per answer; the condition is a subset of the answer's own ratings.
* CDPO: the answers of a row ranked by g under a condition (:func:`fulgurite.data.conditions.rated.value`), from which pairs are
made.

The tag of a row names its controlled objectives ("helpfulness+honesty", or "none"), so that losses come for each set of them, and
its group is the instruction without tokens: no instruction is trained on under one condition and validated on under another.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fulgurite.data.conditions.objectives import Condition, Objectives
from fulgurite.data.conditions.rated import (
    Bucket,
    Rated,
    Ratings,
    bucket_name,
    comparable,
    draw_conditions,
    drawn_condition,
    row_conditions,
    tied_pairs,
    value,
)
from fulgurite.data.conditions.reader import RatedReader
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.records.findings import Finding, Tally
from fulgurite.data.records.preference import Ranked, checked_preference

__all__ = ["Conditioned", "Conditioning", "tag_objectives"]

_NONE = "none"
_FEW = "fewer than two comparable answers"


@dataclass(frozen=True)
class Conditioning:
    """How conditions are drawn and answers valued.

    Attributes:
        objectives: What there are ratings of, their scales, and the spelling of the tokens.
        weights: ω by objective.
        distance_weights: λ by objective.
        control: Which of an answer's rated objectives are controlled: a "random" subset, "all", or "none".
        per_row: Conditions of each answer (CPSFT) or row (CDPO).
        buckets: Levels of the controlled objectives and number of pairs, instead of the two; CDPO's training rows only.
        seed: Decides the draws.
    """

    objectives: Objectives
    weights: Mapping[str, float]
    distance_weights: Mapping[str, float]
    control: str = "random"
    per_row: int = 1
    buckets: tuple[Bucket, ...] | None = None
    seed: int = 0

    def key(self) -> list[Any]:
        """All of it as what a cache key is made of."""
        buckets = None if self.buckets is None else [[dict(levels), count] for levels, count in self.buckets]
        how = [self.control, self.per_row, buckets, self.seed]
        return [self.objectives.to_dict(), dict(self.weights), dict(self.distance_weights), *how]

    def scores(self, ratings: Sequence[Ratings], condition: Condition) -> tuple[list[int], list[str], list[float]]:
        """Places of the answers that can be compared, the objectives that count, and g of each of these answers."""
        places, over = comparable(ratings, condition)
        found = [value(ratings[i], condition, self.weights, self.distance_weights, over) for i in places]
        return places, over, found

    def pairs(self, ratings: Sequence[Ratings], condition: Condition) -> int:
        """Number of pairs that a row has under a condition, ties left out."""
        *_, scores = self.scores(ratings, condition)
        return len(scores) * (len(scores) - 1) // 2 - tied_pairs(scores)


class Conditioned:
    """Reads rated answers as the rows of one stage; a reader like those of conversations and preferences.

    Args:
        rated: reads the rows.
        how: draws the conditions.
        stage: "cpsft" for conversations, "cdpo" for ranked answers.
    """

    def __init__(self, rated: RatedReader, how: Conditioning, stage: str) -> None:
        self.rated, self.how, self.stage = rated, how, stage
        self._drawn: list[list[dict[str, float]]] | None = None

    @property
    def tally(self) -> Tally:
        """What was found in the last reading."""
        return self.rated.tally

    @property
    def schemas(self) -> dict[str, str]:
        """The schema of each source by its name."""
        return self.rated.schemas

    def __iter__(self) -> Iterator[Conversation | Ranked]:
        if self.stage == "cdpo" and self._drawn is None and self.how.buckets is not None:
            # A reading of its own, of ratings alone: buckets choose among all rows before the first row is made, and texts need
            # not fit into memory.
            items = [record.ratings for record in self.rated]
            self._drawn = draw_conditions(
                items,
                self.how.objectives,
                self.how.buckets,
                lambda i, condition: self.how.pairs(items[i], condition),
                self.how.control,
                self.how.per_row,
                self.how.seed,
            )
        kept = 0
        for index, record in enumerate(self.rated):
            rows: Iterator[Conversation | Ranked] = (
                self._conversations(record, index) if self.stage == "cpsft" else self._ranked(record, index)
            )
            for row in rows:
                kept += 1
                yield row
        self.tally.kept = kept
        if kept == 0:
            found = "\n  ".join(self.tally.lines())
            raise ValueError(
                f"Conditioned: no {'conversation' if self.stage == 'cpsft' else 'pair'} of {self.tally.rows} rows is left under "
                f"the conditions asked for{self._asked()}; ask for levels that two answers of a row are rated for, or correct "
                f"the rows\n  {found}".rstrip()
            )

    def _asked(self) -> str:
        """The buckets, for a message."""
        if self.stage == "cpsft" or self.how.buckets is None:
            return ""
        return f" (buckets {', '.join(bucket_name(levels) for levels, _ in self.how.buckets)})"

    def _conversations(self, record: Rated, index: int) -> Iterator[Conversation]:
        draw = random.Random(f"cpsft|{self.how.seed}|{index}")
        for answer, ratings in zip(record.completions, record.ratings, strict=True):
            drawn: list[dict[str, float]] = []
            for _ in range(self.how.per_row):
                condition = drawn_condition(draw, [ratings], self.how.objectives, self.how.control)
                if condition in drawn:
                    continue
                drawn.append(condition)
                turns = (*self._prompt(record, condition), Turn("assistant", answer))
                group = record.prompt[-1].content
                yield Conversation(turns, record.source, record.row, _tag(condition), group)

    def _ranked(self, record: Rated, index: int) -> Iterator[Ranked]:
        how = self.how
        drawn = None if self._drawn is None else self._drawn[index]
        if drawn is None:
            drawn = row_conditions(index, record.ratings, how.objectives, how.control, how.per_row, how.seed)
        for condition in drawn:
            places, over, scores = self.how.scores(record.ratings, condition)
            self._count(record, condition, places, over, scores)
            if len(places) < 2:
                continue
            ranked = Ranked(
                self._prompt(record, condition),
                tuple(record.completions[i] for i in places),
                tuple(scores),
                record.source,
                record.row,
                group=record.prompt[-1].content,
                tag=_tag(condition),
            )
            for item in checked_preference(ranked):
                if isinstance(item, Finding):
                    self._add(item)
                else:
                    yield item  # type: ignore[misc]

    def _count(
        self, record: Rated, condition: Condition, places: list[int], over: list[str], scores: list[float]
    ) -> None:
        """What of a row is not compared under a condition, and why."""
        where, shown = record.where, self.how.objectives.prefix(condition).strip() or "no condition"
        if len(places) < len(record.ratings):
            detail = f"{len(record.ratings) - len(places)} answers under {shown}"
            self._add(Finding(where, "an answer left out: a controlled objective is not rated", detail, lost=False))
        if len(places) < 2:
            self._add(Finding(where, _FEW, f"{len(places)} under {shown}; two are needed"))
            return
        partly = sorted({name for i in places for name in record.ratings[i]} - set(over))
        if partly:
            reason = "a free objective left out: not every answer is rated for it"
            self._add(Finding(where, reason, ", ".join(partly), lost=False))
        for _ in range(tied_pairs(scores)):
            self._add(Finding(where, "a pair left out: tied under its condition", shown, lost=False))

    def _add(self, finding: Finding) -> None:
        if finding.lost and self.rated.on_bad_row == "error":
            raise ValueError(
                f"{finding.where}: {finding.reason}: {finding.detail}; correct the row, or leave such rows out with "
                "on_bad_row='skip'"
            )
        self.tally.add(finding.where, finding.reason, finding.detail, finding.lost)

    def _prompt(self, record: Rated, condition: Condition) -> tuple[Turn, ...]:
        """The prompt with the tokens in front of its last turn, the instruction."""
        last = record.prompt[-1]
        return (*record.prompt[:-1], replace(last, content=self.how.objectives.prefix(condition) + last.content))


def _tag(condition: Condition) -> str:
    return "+".join(condition) or _NONE


def tag_objectives(tags: Sequence[str]) -> set[str]:
    """The objectives that stand in some rows' tags.

    Args:
        tags: of rows that `Conditioned` made.
    """
    return {name for tag in tags if tag != _NONE for name in tag.split("+")}
