"""The rows that a recipe begins with: items of a task of `fulgurite evaluate`, or requests, documents or dialogues of a file; those
that are broken are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fulgurite.data.playground import SCHEMAS, builtin_rows
from fulgurite.data.records.findings import Place, half_pair
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.synthesis.ledger import StepCount
from fulgurite.synthesis.multilingual.reading import Found, Reading, Wrong, read_dialogues, read_documents
from fulgurite.synthesis.problems import own_problem, problem_of
from fulgurite.synthesis.recipe import RowOptions
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.seeds import SEEDS, seed_rows

__all__ = ["first_rows"]

COLUMNS = (
    "instruction", "topic", "domain", "answer", "tests", "solution", "source", "id", "correct_answers", "incorrect_answers",
)  # fmt: skip
_NO_PATH = "synthesize: no rows were named; give --path with a file or builtin, or rows.path in the recipe"
_TWICE = "a key that stands there already"
_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_Read = Iterator[tuple[str, str, "Row | Wrong"]]  # place, key, row


def first_rows(given: RowOptions, limit: int | None, on_bad_row: str) -> tuple[list[Row], StepCount, int]:
    """The rows, their counts, and how many there would be without the limit.

    Args:
        given: the recipe's options.
        limit: the first so many rows; None for all.
        on_bad_row: as `fulgurite evaluate` takes it.

    Raises:
        ValueError, FileNotFoundError: no rows there, or more broken ones than are to be left out.
    """
    count = StepCount("rows")
    rows = _of_task(given, on_bad_row, count) if given.task is not None else _of_file(given, on_bad_row, count)
    there = len(rows)
    rows = rows[:limit]
    count.kept = len(rows)
    if not rows:
        told = "; ".join(f"{reason}: {', '.join(places)}" for reason, places in count.first.items())
        raise ValueError(
            f"synthesize: none of {count.rows} rows of {given.path} can be used ({told}); correct them, or columns"
        )
    return rows, count, there


def _of_task(given: RowOptions, on_bad_row: str, count: StepCount) -> list[Row]:
    (task,) = find_tasks([given.task or ""])
    found = items_of(task, given.path, None, on_bad_row)
    count.rows = found.rows
    for told in found.bad:
        where, _, reason = told.partition(": ")
        count.count(count.dropped, "no item of the task", where, reason)
    rows = []
    for item in found.items:
        problem = problem_of(task, item, given.kind, given.dataset)
        rows.append(Row(item.key, {"instruction": problem.text, "source": problem.dataset}, problem))
    return rows


def _of_file(given: RowOptions, on_bad_row: str, count: StepCount) -> list[Row]:
    rows: list[Row] = []
    seen: set[str] = set()
    for place, key, found in _READINGS[given.reads](given, count):
        count.rows += 1
        wrong = found if isinstance(found, Wrong) else Wrong(_TWICE, key) if key in seen else None
        if isinstance(found, Row) and wrong is None:
            seen.add(key)
            rows.append(found)
            continue
        assert wrong is not None
        if on_bad_row == "error":
            raise ValueError(
                f"synthesize: {place}: {wrong.reason}: {wrong.detail}; correct the row, or leave it out with on_bad_row skip"
            )
        count.count(count.dropped, wrong.reason, place, wrong.detail)
    lost = sum(count.dropped.values())
    if on_bad_row == "few" and lost > 0.1 * count.rows and rows:
        told = "; ".join(
            f"{number} {reason} ({', '.join(count.first[reason])})" for reason, number in count.dropped.items()
        )
        raise ValueError(
            f"synthesize: {lost} of {count.rows} rows of {given.path} would be left out ({told}); allowed without a word is a "
            "tenth; correct them, or accept it with --on_bad_row skip"
        )
    return rows


def _requests(given: RowOptions, count: StepCount) -> _Read:
    unknown = sorted(set(given.columns) - set(COLUMNS))
    if unknown:
        raise ValueError(f"synthesize: rows.columns names {unknown[0]!r}; allowed are {', '.join(COLUMNS)}")
    seen: set[str] = set()
    for place, raw in _raw(given):
        data = {
            name: raw[given.columns.get(name, name)]
            for name in COLUMNS
            if raw.get(given.columns.get(name, name)) is not None
        }
        key = str(data.pop("id", place.row))
        _topic(data)
        wrong = _wrong(data, given.longest)
        problem = None
        if wrong is None and key not in seen and (given.kind is not None or "answer" in data or "tests" in data):
            try:
                problem = own_problem(key, data, given.kind, given.dataset)
            except ValueError as error:
                wrong = Wrong("no problem", str(error))
        if wrong is None:
            seen.add(key)
        yield str(place), key, wrong or Row(key, data, problem)


def _others(read: Callable[[Reading], Found]) -> Callable[[RowOptions, StepCount], _Read]:
    """Rows with nothing to judge answers by: documents or dialogues."""

    def rows(given: RowOptions, count: StepCount) -> _Read:
        if given.kind is not None or given.dataset is not None:
            raise ValueError(
                f"synthesize: rows.kind and rows.dataset say nothing about {given.reads}, which have no answer; leave them out"
            )
        if given.path is None:
            raise ValueError(_NO_PATH)
        reading = Reading(given.path, given.split, given.schema, given.columns, given.longest)
        for place, key, found in read(reading):
            yield place, key, found if isinstance(found, Wrong) else Row(key, found)
        for reason, where in reading.notes:
            count.count(count.notes, reason, where)

    return rows


_READINGS: dict[str, Callable[[RowOptions, StepCount], _Read]] = {
    "requests": _requests,
    "documents": _others(read_documents),
    "dialogues": _others(read_dialogues),
}


def _topic(data: dict[str, Any]) -> None:
    """A topic stands in for an instruction that is still to be made of it; beside an instruction it says nothing."""
    if "instruction" in data:
        data.pop("topic", None)
    elif "topic" in data:
        data["instruction"] = data["topic"]


def _wrong(data: Mapping[str, Any], longest: int) -> Wrong | None:
    text = data.get("instruction")
    if text is None:
        return Wrong("no instruction", "there is no column 'instruction'; name it with rows.columns")
    if not isinstance(text, str):
        return Wrong("not a text", f"'instruction' holds {type(text).__name__}")
    if not text.strip():
        return Wrong("empty instruction")
    if len(text) > longest:
        return Wrong("too long", f"{len(text)} letters; allowed are {longest}")
    at = half_pair(text)
    return None if at is None else Wrong("broken Unicode", f"half a surrogate pair at character {at}")


def _raw(given: RowOptions) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if given.path is None:
        raise ValueError(_NO_PATH)
    if given.path == "builtin":
        schema, split = given.schema or "ultrafeedback", _SPLITS[given.split or "train"]
        if schema not in (*SCHEMAS, SEEDS):
            raise ValueError(f"synthesize: rows.schema={schema!r}; allowed are {', '.join((*SCHEMAS, SEEDS))}")
        made = seed_rows(split) if schema == SEEDS else builtin_rows(schema, split)
        yield from ((Place("builtin", number), row) for number, row in enumerate(made, 1))
        return
    yield from rows_of(given.path, owner="synthesize", split=given.split)
