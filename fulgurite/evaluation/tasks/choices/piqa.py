"""PIQA (arXiv 1911.11641): which of two ways reaches a goal. Prompt of lm-evaluation-harness.

The published rows have their labels in a second file beside them: dev.jsonl with dev-labels.lst, one label a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.sources.tables import read_lines, rows_of
from fulgurite.evaluation.tasks.choices.accuracy import accuracy, with_blank
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register

__all__: list[str] = []


def _item(row: Row, number: int) -> Item:
    label = row.get("label")
    if str(label) not in ("0", "1"):
        raise ValueError(f"'label' is {label!r}; needed is 0 or 1 (the published test rows have none)")
    choices = with_blank([field_of(row, "sol1"), field_of(row, "sol2")])
    return Item(str(number), f"Question: {field_of(row, 'goal')}\nAnswer:", int(str(label)), choices)


def _rows(path: Path) -> Iterator[tuple[Place, Row]]:
    rows = list(rows_of(path, owner="piqa"))
    if not rows or "label" in rows[0][1]:
        yield from rows
        return
    first, _, rest = path.name.partition(".")
    labels = path.with_name(f"{first}-labels.{rest.removesuffix('.gz').rpartition('.')[0]}.lst".replace("..", "."))
    if not labels.is_file():
        raise FileNotFoundError(f"piqa: the rows of {path} have no 'label', and {labels} is not there; give both files")
    found = [line.strip() for line in read_lines(labels)]
    if len(found) != len(rows):
        raise ValueError(
            f"piqa: {path} has {len(rows)} rows, {labels} has {len(found)} labels; they belong to different files"
        )
    for (place, row), label in zip(rows, found, strict=True):
        yield place, {**row, "label": label}


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[item.target]}"


register(
    Task(
        "piqa",
        "physical common sense: which of two solutions reaches the goal, by log-likelihood",
        1,
        _item,
        hub=Hub("baber/piqa", None, "validation", "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1"),
        files=("qa/piqa/dev.jsonl", "qa/piqa/dev.head-1200.jsonl", "piqa/dev.jsonl", "piqa/dev.head-1200.jsonl"),
        read=_rows,
        example=_example,
        metrics=accuracy,
    )
)
