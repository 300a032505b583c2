"""What a task is: where its rows lie, how a row becomes a prompt, how an answer is taken from a text and judged.

A file of `tasks/` makes its tasks and hands each to `register`; nothing else in the package names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from fulgurite.data.records.findings import Place
from fulgurite.data.records.item import Item, Row, field_of
from fulgurite.data.tasks.questions.task import QuestionTask
from fulgurite.evaluation.judging.verdicts import Judge

__all__ = ["TASKS", "Hub", "Item", "Row", "Task", "field_of", "find_tasks", "register"]


@dataclass(frozen=True)
class Hub:
    """Where the hub has a task's rows.

    Attributes:
        name: id of the data set.
        config: its configuration; None for the only one.
        split: as the hub calls it.
        revision: the commit.
    """

    name: str
    config: str | None
    split: str
    revision: str

    @classmethod
    def of(cls, task: QuestionTask, split: str) -> Hub:
        """The split of a task of questions.

        Args:
            task: that the hub has.
            split: "train", "val" or "test".
        """
        if task.hub is None:
            raise ValueError(f"Hub.of: we know no data set of the hub for {task.name!r}; leave its hub out")
        return cls(task.hub.name, task.hub.config, task.hub.splits[split], task.hub.revision)


def _whole(text: str, item: Item) -> str | None:
    return text.strip() or None


@dataclass(frozen=True)
class Task:
    """A benchmark.

    Attributes:
        name: what users type.
        summary: what it asks, and which variant of its prompt this is, in one line.
        version: counts up whenever scores may change.
        item: an item of a row; the row's number, from 1, is there for rows without an id. A ValueError says what a row lacks.
        judge: decides about answers; None for a choice by log-likelihood.
        hub: where the hub has the rows; None if it has none that we know.
        files: names of its file in a folder of data, the first that is there is taken.
        read: rows of a file or folder with their places; None for the usual formats.
        builtin: rows of the playground in the published schema; None if there are none.
        stop: texts that end an answer.
        max_new_tokens: of an answer.
        answer: the answer in a text, None if there is none; it gets the text and its item.
        example: an item with its solution as it stands before the prompt among the examples; None: the task takes none.
        fixed: examples that belong to the task's definition; rows of other files are not asked for them.
        chat: whether it can be asked in a chat.
        metrics: of a choice: from the item, the sums of log-likelihoods and, where `greedy`, whether each choice is what greedy
            decoding writes.
        greedy: whether `metrics` needs the latter.
    """

    name: str
    summary: str
    version: int
    item: Callable[[Row, int], Item]
    judge: Judge | None = None
    hub: Hub | None = None
    files: tuple[str, ...] = ()
    read: Callable[[Path], Iterator[tuple[Place, Row]]] | None = None
    builtin: Callable[[], Sequence[Row]] | None = None
    stop: tuple[str, ...] = ()
    max_new_tokens: int = 256
    answer: Callable[[str, Item], str | None] = _whole
    example: Callable[[Item], str] | None = None
    fixed: tuple[str, ...] = ()
    chat: bool = True
    metrics: Callable[[Item, Sequence[float], Sequence[bool] | None], dict[str, float]] | None = None
    greedy: bool = False

    @property
    def kind(self) -> str:
        """ "choices" or "answers"."""
        return "answers" if self.metrics is None else "choices"


TASKS: dict[str, Task] = {}


def register(task: Task) -> Task:
    """Puts a task on the list.

    Args:
        task: with a name of its own.

    Raises:
        ValueError: the name is taken; a task with neither or both of a judge and metrics.
    """
    if task.name in TASKS:
        raise ValueError(f"register: a task {task.name!r} is there already; choose another name")
    if (task.judge is None) == (task.metrics is None):
        raise ValueError(f"register: the task {task.name!r} needs either a judge, for answers, or metrics, for choices")
    TASKS[task.name] = task
    return task


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names, each once.

    Raises:
        ValueError: a name that is not on the list.
    """
    for name in names:
        if name not in TASKS:
            near = get_close_matches(name, TASKS, n=1)
            guess = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"evaluate: no task {name!r}.{guess} The tasks are: {', '.join(sorted(TASKS))}")
    return [TASKS[name] for name in dict.fromkeys(names)]
