"""The eleven tasks on which APET compares parameter-efficient tuning (arXiv 2306.02320): columns, labels, metrics, wording.

Five types: sentiment (SST-2, Rotten Tomatoes, IMDB), inference (MNLI, QNLI, RTE), paraphrase (QQP, MRPC), questions
(NQ-Open), summaries (SAMSum, Multi-News). A row is either texts with a class, or, text to text, an input with its
answers. The input is worded as in CrossFit, whose files the paper trains on: `premise: … [SEP] hypothesis: …`; around it stands
`Input: {x} Output: {y}`. A label is verbalised by its own word ("words") or by its index ("digits").

SAMSum and Multi-News are scored by ROUGE-L, NQ-Open by SQuAD's F1 over tokens, the others by accuracy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from fulgurite.data.records.examples import Examples, checked_text, class_index
from fulgurite.data.records.findings import place
from fulgurite.data.tasks.glue import GLUE_TASKS, GLUETask

__all__ = [
    "PET_TASKS",
    "AnsweredExamples",
    "PETTask",
    "answered",
    "examples_from_columns",
    "input_text",
    "pet_task_named",
    "split_input",
]

_SEPARATOR = " [SEP] "


@dataclass(frozen=True)
class PETTask:
    """One task.

    Args:
        name: what `task` calls it.
        texts: its text columns on the hub, one or two.
        target: its column of the label or the answer.
        labels: label names by class index; empty where the answer is free text.
        metrics: what is reported, the metric that models are selected by first.
        hub: (id, configuration or None) on the hub.
        prefixes: what stands before each text in the input.
        folders: further names of its folder on disk.
        splits: names of (training, validation, test) splits on the hub; None where there is none, or none with labels.
        glue: the task of GLUE, where it is one: its files are then read as GLUE's.
    """

    name: str
    texts: tuple[str, ...]
    target: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    hub: tuple[str, str | None]
    prefixes: tuple[str, ...]
    folders: tuple[str, ...] = ()
    splits: tuple[str, str | None, str | None] = ("train", "validation", "test")
    glue: GLUETask | None = None

    @property
    def schema(self) -> str:
        """The playground's schema with the same columns."""
        return f"glue/{self.name}" if self.glue is not None else self.name


def _glue(name: str, prefixes: tuple[str, ...]) -> PETTask:
    task = GLUE_TASKS[name]
    validation = "validation_matched" if name == "mnli" else "validation"
    return PETTask(
        name,
        task.texts,
        "label",
        task.labels,
        ("accuracy", "f1") if len(task.labels) == 2 and name in ("qqp", "mrpc") else ("accuracy",),
        ("nyu-mll/glue", name),
        prefixes,
        (*task.folder, f"glue-{name}", f"glue_{name}"),
        ("train", validation, None),
        task,
    )


_POLARITY = ("negative", "positive")

PET_TASKS: dict[str, PETTask] = {
    task.name: task
    for task in (
        _glue("sst2", ("sentence: ",)),
        PETTask("rotten_tomatoes", ("text",), "label", _POLARITY, ("accuracy",), ("rotten_tomatoes", None), ("",)),
        PETTask(
            "imdb",
            ("text",),
            "label",
            _POLARITY,
            ("accuracy",),
            ("imdb", None),
            ("",),
            splits=("train", None, "test"),
        ),
        _glue("mnli", ("premise: ", "hypothesis: ")),
        _glue("qnli", ("question: ", "sentence: ")),
        _glue("rte", ("sentence 1: ", "sentence 2: ")),
        _glue("qqp", ("question 1: ", "question 2: ")),
        _glue("mrpc", ("sentence 1: ", "sentence 2: ")),
        PETTask(
            "nq_open",
            ("question",),
            "answer",
            (),
            ("token_f1", "exact_match"),
            ("nq_open", None),
            ("",),
            ("nq-open", "natural_questions"),
            ("train", "validation", None),
        ),
        PETTask("samsum", ("dialogue",), "summary", (), ("rouge_l",), ("samsum", None), ("",)),
        PETTask("multi_news", ("document",), "summary", (), ("rouge_l",), ("multi_news", None), ("",), ("multi-news",)),
    )
}


def pet_task_named(name: str) -> PETTask:
    """The task called `name`."""
    if name not in PET_TASKS:
        near = get_close_matches(name.lower().replace("-", "_"), PET_TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise ValueError(f"PETTasks: task {name!r}; allowed are {', '.join(PET_TASKS)}; {hint}")
    return PET_TASKS[name]


@dataclass
class AnsweredExamples(Examples):
    """Rows with their right answers.

    Args:
        answers: the right answers of each row, the one that is trained on first; none where they are hidden.
    """

    answers: list[tuple[str, ...]] = field(default_factory=list)

    def take(self, indices: Sequence[int]) -> AnsweredExamples:
        """The rows at `indices`, in that order."""
        taken = super().take(indices)
        answers = [self.answers[i] for i in indices]
        return AnsweredExamples(taken.texts, taken.pairs, taken.labels, taken.source, taken.rows, answers)

    def labelled(self) -> int:
        """How many rows have an answer."""
        return sum(bool(answers) for answers in self.answers)


def answered(task: PETTask, examples: Examples) -> AnsweredExamples:
    """Rows of a task with classes, the name of the class as the answer."""
    labels = examples.labels if examples.labels is not None else [None] * len(examples)
    answers: list[tuple[str, ...]] = [() if label is None else (task.labels[int(label)],) for label in labels]
    return AnsweredExamples(
        examples.texts, examples.pairs, examples.labels, examples.source, list(examples.rows), answers
    )


def examples_from_columns(
    task: PETTask, rows: Iterable[dict[str, Any]], source: str, numbers: Sequence[int] | None = None
) -> AnsweredExamples:
    """Checked rows from dictionaries with the hub's columns.

    Args:
        task: the task.
        rows: one dictionary per row; a class may be given by index or name, an answer as a text or a list of texts.
        source: file or data set, for messages.
        numbers: number of each row in the source, counted from 1; default: the rows' order.
    """
    texts: list[list[str]] = [[] for _ in task.texts]
    labels: list[int | float | None] = []
    answers: list[tuple[str, ...]] = []
    counted: list[int] = []
    for position, row in enumerate(rows):
        number = numbers[position] if numbers is not None else position + 1
        where = place(source, number)
        for column, name in zip(texts, task.texts, strict=True):
            column.append(checked_text(row.get(name), name, where))
        label, right = _target(task, row.get(task.target), where)
        labels.append(label)
        answers.append(right)
        counted.append(number)
    if not counted:
        raise ValueError(f"{source}: no row was found; at least one is needed; check the file")
    pairs = texts[1] if len(texts) == 2 else None
    return AnsweredExamples(texts[0], pairs, labels if task.labels else None, source, counted, answers)


def _target(task: PETTask, value: object, where: str) -> tuple[int | None, tuple[str, ...]]:
    if value is None or (task.labels and value in (-1, "-1")):
        return None, ()
    if task.labels:
        index = class_index(value, task.labels, where)
        return index, (task.labels[index],)
    several: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    if not several or not all(isinstance(text, str) and text.strip() for text in several):
        raise ValueError(
            f"{where}: column {task.target!r} holds {value!r}; a text, or a list of texts, is needed; correct the row"
        )
    return None, tuple(checked_text(text, task.target, where).strip() for text in several)


def input_text(task: PETTask, texts: Sequence[str]) -> str:
    """x of `Input: {x} Output: {y}`: the row's texts, each behind its prefix."""
    parts = (prefix + text.strip() for prefix, text in zip(task.prefixes, texts, strict=True))
    return _SEPARATOR.join(parts)


def split_input(task: PETTask, text: str, where: str) -> tuple[str, ...]:
    """The texts behind an input; the inverse of :func:`input_text`, prefixes may be missing.

    Raises:
        ValueError: a pair task whose input has no `[SEP]`, or several.
    """
    parts = text.split(_SEPARATOR) if len(task.texts) > 1 else [text]
    if len(parts) != len(task.texts):
        raise ValueError(
            f"{where}: the input {text[:60]!r} has {len(parts) - 1} times {_SEPARATOR.strip()!r}; {task.name} needs one between "
            f"{' and '.join(task.texts)}; correct the row"
        )
    return tuple(part.strip().removeprefix(prefix) for part, prefix in zip(parts, task.prefixes, strict=True))
