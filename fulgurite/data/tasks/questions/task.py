"""What a task of questions is to training: where its rows lie, how a row becomes an item, and a register of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.records.item import Item, Row

__all__ = ["QUESTION_TASKS", "HubRows", "QuestionTask", "question_task_named", "register_questions"]


@dataclass(frozen=True)
class HubRows:
    """Where the hub has a task's rows.

    Attributes:
        name: id of the data set.
        config: its configuration; None for the only one.
        splits: the hub's names of "train", "val" and "test", those that it has with answers.
        revision: the commit.
    """

    name: str
    config: str | None
    splits: Mapping[str, str]
    revision: str


@dataclass(frozen=True)
class QuestionTask:
    """A task whose answers are texts.

    Attributes:
        name: what users type.
        item: an item of a row; the row's number, from 1, is there for rows without an id. A ValueError says what a row lacks.
        make: a row in the published schema of a question, its choices, the right one's place, and a number: for the playground.
        hub: where the hub has the rows; None if it has none that we know.
        files: beginnings of the published files' names, where they are not train, dev or validation, and test.
        read: rows of a file with their places; None for the usual formats.
        keeps_blank: whether the papers' code trains on answers with the blank in front, as it scores them.
    """

    name: str
    item: Callable[[Row, int], Item]
    make: Callable[[str, list[str], int, int], Row]
    hub: HubRows | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    read: Callable[[Path], Iterator[tuple[Place, Row]]] | None = None
    keeps_blank: bool = False


QUESTION_TASKS: dict[str, QuestionTask] = {}


def register_questions(task: QuestionTask) -> QuestionTask:
    """Puts a task on the list.

    Args:
        task: with a name of its own.

    Raises:
        ValueError: the name is taken.
    """
    if task.name in QUESTION_TASKS:
        raise ValueError(f"register_questions: a task {task.name!r} is there already; choose another name")
    QUESTION_TASKS[task.name] = task
    return task


def question_task_named(name: str, owner: str) -> QuestionTask:
    """The task of this name.

    Args:
        name: of the task.
        owner: who asks, for the message.

    Raises:
        ValueError: a name that is not on the list.
    """
    if name not in QUESTION_TASKS:
        near = get_close_matches(name, QUESTION_TASKS, n=1)
        guess = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{owner}: no task {name!r}.{guess} The tasks are: {', '.join(sorted(QUESTION_TASKS))}")
    return QUESTION_TASKS[name]
