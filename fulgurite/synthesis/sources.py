"""The rows that a recipe begins with: items of a task of `fulgurite evaluate`, or rows of a file; broken ones are counted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fulgurite.data.playground import SCHEMAS, builtin_rows
from fulgurite.data.records.findings import Place, half_pair
from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.tasks import find_tasks
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.synthesis.ledger import StepCount
from fulgurite.synthesis.problems import own_problem, problem_of
from fulgurite.synthesis.recipe import RowOptions
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.seeds import SEEDS, seed_rows

__all__ = ["LONGEST", "first_rows"]

COLUMNS = (
    "instruction", "topic", "domain", "answer", "tests", "solution", "source", "id", "correct_answers", "incorrect_answers",
)  # fmt: skip
LONGEST = 100_000  # letters of an instruction
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


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
    unknown = sorted(set(given.columns) - set(COLUMNS))
    if unknown:
        raise ValueError(f"synthesize: rows.columns names {unknown[0]!r}; allowed are {', '.join(COLUMNS)}")
    rows: list[Row] = []
    seen: set[str] = set()
    for place, raw in _raw(given):
        count.rows += 1
        data = {
            name: raw[given.columns.get(name, name)]
            for name in COLUMNS
            if raw.get(given.columns.get(name, name)) is not None
        }
        key = str(data.pop("id", place.row))
        _topic(data)
        wrong = _wrong(data, key, seen)
        problem = None
        if wrong is None and (given.kind is not None or "answer" in data or "tests" in data):
            try:
                problem = own_problem(key, data, given.kind, given.dataset)
            except ValueError as error:
                wrong = ("no problem", str(error))
        if wrong is None:
            seen.add(key)
            rows.append(Row(key, data, problem))
            continue
        if on_bad_row == "error":
            raise ValueError(
                f"synthesize: {place}: {wrong[0]}: {wrong[1]}; correct the row, or leave it out with on_bad_row skip"
            )
        count.count(count.dropped, wrong[0], str(place), wrong[1])
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


def _topic(data: dict[str, Any]) -> None:
    """A topic stands in for an instruction that is still to be made of it; beside an instruction it says nothing."""
    if "instruction" in data:
        data.pop("topic", None)
    elif "topic" in data:
        data["instruction"] = data["topic"]


def _wrong(data: Mapping[str, Any], key: str, seen: set[str]) -> tuple[str, str] | None:
    text = data.get("instruction")
    if text is None:
        return "no instruction", "there is no column 'instruction'; name it with rows.columns"
    if not isinstance(text, str):
        return "not a text", f"'instruction' holds {type(text).__name__}"
    if not text.strip():
        return "empty instruction", ""
    if len(text) > LONGEST:
        return "too long", f"{len(text)} letters; allowed are {LONGEST}"
    at = half_pair(text)
    if at is not None:
        return "broken Unicode", f"half a surrogate pair at character {at}"
    if key in seen:
        return "a key that stands there already", key
    return None


def _raw(given: RowOptions) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if given.path is None:
        raise ValueError(
            "synthesize: no rows were named; give --path with a file or builtin, or rows.path in the recipe"
        )
    if given.path == "builtin":
        split = _SPLITS[given.split or "train"]
        if given.schema not in (*SCHEMAS, SEEDS):
            raise ValueError(f"synthesize: rows.schema={given.schema!r}; allowed are {', '.join((*SCHEMAS, SEEDS))}")
        made = seed_rows(split) if given.schema == SEEDS else builtin_rows(given.schema, split)
        yield from ((Place("builtin", number), row) for number, row in enumerate(made, 1))
        return
    yield from rows_of(given.path, owner="synthesize", split=given.split)
