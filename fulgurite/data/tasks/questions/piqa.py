"""Rows of PIQA (arXiv 1911.11641): which of two ways reaches a goal. Prompt of lm-evaluation-harness.

The published rows have their labels in a second file beside them: dev.jsonl with dev-labels.lst, one label a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.records.item import Item, Row, field_of, with_blank
from fulgurite.data.sources.tables import read_lines, rows_of
from fulgurite.data.tasks.questions.task import HubRows, QuestionTask, register_questions

__all__ = ["PIQA", "piqa_item", "piqa_rows"]


def piqa_item(row: Row, number: int) -> Item:
    """A row as an item."""
    label = row.get("label")
    if str(label) not in ("0", "1"):
        raise ValueError(f"'label' is {label!r}; needed is 0 or 1 (the published test rows have none)")
    choices = with_blank([field_of(row, "sol1"), field_of(row, "sol2")])
    return Item(str(number), f"Question: {field_of(row, 'goal')}\nAnswer:", int(str(label)), choices)


def piqa_rows(path: Path) -> Iterator[tuple[Place, Row]]:
    """The rows of a file with their labels, from the second file where they have none."""
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


def _published(stem: str, texts: list[str], right: int, number: int) -> Row:
    return {"goal": stem, "sol1": texts[right], "sol2": texts[right - 1], "label": 0}


PIQA = register_questions(
    QuestionTask(
        "piqa",
        piqa_item,
        _published,
        HubRows(
            "baber/piqa", None, {"train": "train", "val": "validation"}, "142f6d7367fd9877f0fb3b5734ea6a545f54cdd1"
        ),
        read=piqa_rows,
    )
)
