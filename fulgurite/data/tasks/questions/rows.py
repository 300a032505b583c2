"""The items of a task of questions: from the hub, a file, a folder with the published files, or the playground."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.records.item import Item, Row
from fulgurite.data.sources.folders import content_folder, split_files
from fulgurite.data.sources.formats import is_row_file, is_row_source, no_such_file
from fulgurite.data.sources.hub import hub_rows
from fulgurite.data.sources.tables import rows_of
from fulgurite.data.tasks.questions.task import QuestionTask

__all__ = ["BAD_ROWS", "QuestionRows", "question_rows"]

BAD_ROWS = ("few", "skip", "error")
_FEW = 0.1  # of the rows
_BUILTIN = {"train": 400, "val": 60, "test": 60}


@dataclass(frozen=True)
class QuestionRows:
    """The questions of a split.

    Attributes:
        items: in the order of their rows.
        numbers: of each item's row in its file.
        source: where they come from, for people.
        bad: what is wrong with each row that was left out.
    """

    items: list[Item]
    numbers: list[int]
    source: str
    bad: list[str]


def question_rows(
    task: QuestionTask, path: str | None, split: str, owner: str, whole: bool = False, on_bad_row: str = "few"
) -> QuestionRows | None:
    """The items of a split that have a right answer; None where there is no such split.

    Args:
        task: the task.
        path: None for the hub; a file, whose rows are those of the training split; a folder with a file for each split, by the
            published names or by a word such as train in them; "builtin".
        split: "train", "val" or "test".
        owner: who asks, for messages.
        whole: the file holds the rows of this split, whatever that is.
        on_bad_row: as of the data modules.

    Raises:
        FileNotFoundError, ValueError: nothing there; too many rows that are no items.
    """
    found = _rows(task, path, split, owner, whole)
    if found is None:
        return None
    source, rows = found
    items: list[Item] = []
    numbers: list[int] = []
    bad: list[str] = []
    for place, row in rows:
        try:
            item = task.item(row, place.row)
        except ValueError as error:
            bad.append(f"{place}: {error}")
            if on_bad_row == "error":
                raise ValueError(
                    f"{owner}: {bad[-1]}; correct the row, or leave it out with on_bad_row skip"
                ) from error
            continue
        items.append(item)
        numbers.append(place.row)
    if not items or (on_bad_row == "few" and len(bad) > _FEW * (len(items) + len(bad))):
        first = f", the first: {bad[0]}" if bad else ""
        raise ValueError(
            f"{owner}: {len(bad)} of {len(items) + len(bad)} rows of {source} are no questions of {task.name}{first}; give a file "
            "of this task, or accept what is left, if anything is, with on_bad_row skip"
        )
    return QuestionRows(items, numbers, source, bad)


def _rows(
    task: QuestionTask, path: str | None, split: str, owner: str, whole: bool
) -> tuple[str, Iterator[tuple[Place, Row]]] | None:
    if path == "builtin":
        made = [_made(task, split, number) for number in range(1, _BUILTIN[split] + 1)]
        return f"builtin {task.name}", ((Place("builtin", number), row) for number, row in enumerate(made, 1))
    if path is None:
        return _of_hub(task, split, owner)
    place = Path(path).expanduser()
    if not place.exists():
        raise no_such_file(place, owner)
    if place.is_file() or is_row_source(place):
        return _of_file(task, place, owner) if whole or split == "train" else None
    folder = content_folder(place)
    published = task.files.get(split, "")
    named = [file for file in sorted(folder.iterdir()) if file.name.startswith(published) and is_row_file(file)]
    files = named if published and named else split_files(folder, split)
    if not files:
        return None
    if len(files) > 1:
        raise ValueError(
            f"{owner}: {folder} holds {len(files)} files of {split} rows, {files[0].name} and {files[1].name} among them; give one "
            "file with path, and others with val_path and test_path"
        )
    return _of_file(task, files[0], owner)


def _of_file(task: QuestionTask, file: Path, owner: str) -> tuple[str, Iterator[tuple[Place, Row]]]:
    return str(file), task.read(file) if task.read is not None else iter(rows_of(file, owner=owner))


def _of_hub(task: QuestionTask, split: str, owner: str) -> tuple[str, Iterator[tuple[Place, Row]]] | None:
    hub = task.hub
    if hub is None:
        raise ValueError(f"{owner}: we know no data set of the hub for {task.name}; give a file or folder as path")
    if split not in hub.splits:
        return None
    rows = hub_rows(
        hub.name, hub.splits[split], owner=owner, revision=hub.revision, config=hub.config, advice="a local file"
    )
    name = f"{hub.name} {hub.splits[split]}"
    return name, ((Place(name, number), row) for number, row in enumerate(rows, 1))


def _made(task: QuestionTask, split: str, number: int) -> Row:
    """A sum, with its result and another number to choose from, in the task's published schema."""
    draw = random.Random(f"{split} {number}")
    a, b = draw.randint(2, 40), draw.randint(2, 40)
    wrong = a + b + draw.choice([-2, -1, 1, 2])
    right = draw.randint(0, 1)
    texts = [str(wrong), str(a + b)] if right else [str(a + b), str(wrong)]
    return task.make(f"What is {a} + {b}?", texts, right, number)
