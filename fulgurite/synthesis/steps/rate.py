"""rate: a judge rates all completions of a row for each aspect, in one call with the texts in random order.

An answer that cannot be read for every text is asked for again, with the format said once more, up to `retries` times; of the last
answer what can be read stays, and the rest is "N/A". Every reason is counted.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.annotation.parsing import NOT_APPLICABLE, Rated, Unread, ratings_in
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__ = ["ASPECTS"]

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
_KINDS = ("truthfulness", "helpfulness")  # aspects with kinds of faults or virtues beside the rating


@dataclass(frozen=True)
class RateOptions:
    """Who rates what.

    Args:
        by: the model that rates.
        aspects: which of the four.
        retries: how often an answer in another format is asked for again.
        column: of the completions.
        into: what the ratings are called in each completion.
    """

    by: str
    aspects: list[Literal["instruction_following", "honesty", "truthfulness", "helpfulness"]] = field(
        default_factory=lambda: ["instruction_following", "honesty", "truthfulness", "helpfulness"]
    )
    retries: int = 2
    column: str = "completions"
    into: str = "annotations"

    def __post_init__(self) -> None:
        if self.retries < 0 or not self.aspects:
            raise ValueError("synthesize: rate needs at least one aspect, and retries of 0 or more")


@dataclass
class _Job:
    """One aspect of one row: its order, and what is read so far."""

    row: int
    aspect: str
    order: list[int]
    read: list[Rated | Unread]
    made: list[Any] = field(default_factory=list)
    waiting: bool = False


def _run(options: RateOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    jobs = []
    for number, row in enumerate(rows):
        for aspect in options.aspects:
            draw = random.Random(f"{desk.seed}|{desk.step}|{row.key}|{aspect}")
            order = [
                place for _, place in sorted((draw.random(), place) for place in range(len(row.data[options.column])))
            ]
            jobs.append(_Job(number, aspect, order, [Unread("no answer") for _ in order]))
    for attempt in range(options.retries + 1):
        todo = [job for job in jobs if not job.waiting and any(isinstance(found, Unread) for found in job.read)]
        asks = [_ask(options, rows[job.row], job, attempt, desk) for job in todo]
        for job, answer in zip(todo, desk.ask(asks, "ratings"), strict=True):
            if answer is None:
                job.waiting = True
                continue
            job.made.append(answer.made)
            job.read = _read(job, answer)
    by_row: dict[int, list[_Job]] = {}
    for job in jobs:
        by_row.setdefault(job.row, []).append(job)
    kept = []
    for number, row in enumerate(rows):
        own = by_row.get(number, [])
        if any(job.waiting for job in own):
            desk.wait(row)
        else:
            kept.append(_rated(options, row, own, desk))
    return kept


def _ask(options: RateOptions, row: Row, job: _Job, attempt: int, desk: Desk) -> Ask:
    completions = row.data[options.column]
    fields = {
        "aspect": job.aspect,
        "instruction": row.text("instruction"),
        "answers": [str(completions[place]["response"]) for place in job.order],
        "knowledge": _knowledge(row) if job.aspect == "truthfulness" else "",
        "again": "yes" if attempt else "",
    }
    turns = (Turn("user", desk.prompt("rate", fields)),)
    return Ask(row.key, job.aspect, options.by, turns, attempt, ("rate",))


def _knowledge(row: Row) -> str:
    """What is known to be right or wrong, as TruthfulQA and FalseQA have it."""
    parts = []
    for name, lead in (("correct_answers", "Right"), ("incorrect_answers", "Wrong")):
        given = row.data.get(name)
        known = [str(text) for text in given if str(text) != "None"] if isinstance(given, list) else []
        parts += [f"{lead}: {'; '.join(known)}"] if known else []
    return "\n".join(parts)


def _read(job: _Job, answer: Answer) -> list[Rated | Unread]:
    """Ratings by completion, not by their place in the prompt; what an earlier answer said is replaced only by what can be read."""
    found = ratings_in(answer.text, len(job.order), job.aspect in _KINDS)
    read = list(job.read)
    for place, rating in zip(job.order, found, strict=True):
        if isinstance(rating, Rated) or isinstance(read[place], Unread):
            read[place] = rating
    return read


def _rated(options: RateOptions, row: Row, jobs: Sequence[_Job], desk: Desk) -> Row:
    completions = [
        {**completion, options.into: {**completion.get(options.into, {})}} for completion in row.data[options.column]
    ]
    for job in jobs:
        for place, found in enumerate(job.read):
            if isinstance(found, Unread):
                desk.note(row.key, f"no rating: {found}", f"{job.aspect} of completion {place + 1}")
                found = Rated(NOT_APPLICABLE)
            entry: dict[str, Any] = {"Rating": found.rating, "Rationale": found.rationale}
            if job.aspect in _KINDS:
                entry = {"Type": list(found.kinds), **entry, "Rationale For Rating": found.reason}
            completions[place][options.into][job.aspect] = entry
    return row.having({options.column: completions}, tuple(made for job in jobs for made in job.made))


register(Step("rate", "a judge rates completions of a row by aspects, in one call each", RateOptions, _run))
