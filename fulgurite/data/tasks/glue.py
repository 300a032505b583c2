"""The nine tasks of GLUE and its diagnostic set: columns, labels, metrics, and the two ways of splitting them.

Official splits keep the test labels hidden. The SoRA paper (arXiv 2311.11696) therefore re-splits, with
`torch.randperm` under seed 42: where the training set is small (and for MNLI) the official validation set is halved
into validation and test; for QQP, QNLI and SST-2 the first 1000 rows of the permuted training set become the
validation set and the official validation set becomes the test set. WNLI, which the paper leaves out, is treated as
small.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.data.records.examples import Examples, checked_text, class_index, number_in_range
from fulgurite.data.records.findings import place

__all__ = ["GLUE_TASKS", "GLUETask", "examples_from_rows", "task_named"]


@dataclass(frozen=True)
class GLUETask:
    """One task.

    Args:
        name: configuration name on the hub.
        folder: names of the task's folder in the published archives.
        texts: the text columns, one or two, as the hub names them.
        labels: label names by class index; empty for regression.
        metrics: what is reported, the metric that models are selected by first.
        tsv_texts: names of the text columns in the TSV files.
        tsv_label: name of the label column in the TSV files.
        headerless: (number of fields, text fields, label field) of TSV files without a header line.
        paper: how the paper re-splits: "halve" the validation set or take validation rows "from train".
    """

    name: str
    folder: tuple[str, ...]
    texts: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    tsv_texts: tuple[str, ...]
    tsv_label: str
    headerless: tuple[int, tuple[int, ...], int]
    paper: str

    @property
    def task_type(self) -> str:
        """What the label is: "classification" or "regression"."""
        return "classification" if self.labels else "regression"

    @property
    def num_labels(self) -> int:
        """Number of classes; 1 for regression."""
        return len(self.labels) or 1


_PAIR = ("sentence1", "sentence2")
_ENTAIL = ("entailment", "not_entailment")
_NLI = ("entailment", "neutral", "contradiction")

GLUE_TASKS: dict[str, GLUETask] = {
    task.name: task
    for task in (
        GLUETask(
            "cola",
            ("CoLA",),
            ("sentence",),
            ("unacceptable", "acceptable"),
            ("mcc",),
            ("sentence",),
            "label",
            (4, (3,), 1),
            "halve",
        ),
        GLUETask(
            "sst2",
            ("SST-2",),
            ("sentence",),
            ("negative", "positive"),
            ("accuracy",),
            ("sentence",),
            "label",
            (2, (0,), 1),
            "from train",
        ),
        GLUETask(
            "mrpc",
            ("MRPC",),
            _PAIR,
            ("not_equivalent", "equivalent"),
            ("f1", "accuracy"),
            ("#1 String", "#2 String"),
            "Quality",
            (5, (3, 4), 0),
            "halve",
        ),
        GLUETask(
            "qqp",
            ("QQP",),
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1"),
            ("question1", "question2"),
            "is_duplicate",
            (6, (3, 4), 5),
            "from train",
        ),
        GLUETask(
            "stsb",
            ("STS-B", "SST-B"),
            _PAIR,
            (),
            ("pearson", "spearman"),
            _PAIR,
            "score",
            (10, (7, 8), 9),
            "halve",
        ),
        GLUETask(
            "mnli",
            ("MNLI",),
            ("premise", "hypothesis"),
            _NLI,
            ("accuracy",),
            _PAIR,
            "gold_label",
            (12, (8, 9), 11),
            "halve",
        ),
        GLUETask(
            "qnli",
            ("QNLI",),
            ("question", "sentence"),
            _ENTAIL,
            ("accuracy",),
            ("question", "sentence"),
            "label",
            (4, (1, 2), 3),
            "from train",
        ),
        GLUETask("rte", ("RTE",), _PAIR, _ENTAIL, ("accuracy",), _PAIR, "label", (4, (1, 2), 3), "halve"),
        GLUETask(
            "wnli",
            ("WNLI",),
            _PAIR,
            ("not_entailment", "entailment"),
            ("accuracy",),
            _PAIR,
            "label",
            (4, (1, 2), 3),
            "halve",
        ),
        GLUETask(
            "ax", ("AX", "diagnostic"), ("premise", "hypothesis"), _NLI, ("mcc",), _PAIR, "label", (4, (1, 2), 3), ""
        ),
    )
}


def task_named(name: str) -> GLUETask:
    """The task called `name`."""
    if name not in GLUE_TASKS:
        from difflib import get_close_matches

        near = get_close_matches(name.lower().replace("-", ""), GLUE_TASKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
        raise ValueError(f"GLUE: task {name!r}; allowed are {', '.join(GLUE_TASKS)}; {hint}")
    return GLUE_TASKS[name]


def examples_from_rows(
    task: GLUETask,
    rows: Iterable[dict[str, Any]],
    source: str,
    numbers: Sequence[int] | None = None,
) -> Examples:
    """Checked examples from rows with the hub's column names (`task.texts` and `label`).

    A row without the `label` key has no label; -1 means that the label is hidden.

    Args:
        task: the task.
        rows: one dictionary per row.
        source: file or data set, for messages.
        numbers: number of each row in the source, counted from 1; default: the rows' order.
    """
    texts: list[list[str]] = [[] for _ in task.texts]
    labels: list[int | float | None] = []
    counted: list[int] = []
    has_label = True
    for position, row in enumerate(rows):
        number = numbers[position] if numbers is not None else position + 1
        where = place(source, number)
        for column, name in zip(texts, task.texts, strict=True):
            column.append(checked_text(row.get(name), name, where))
        has_label = has_label and "label" in row
        labels.append(_label(task, row.get("label"), where))
        counted.append(number)
    if not counted:
        raise ValueError(f"{source}: no row was found; at least one is needed; check the file")
    return Examples(texts[0], texts[1] if len(texts) == 2 else None, labels if has_label else None, source, counted)


def _label(task: GLUETask, value: object, where: str) -> int | float | None:
    if value is None or value in (-1, "-1"):
        return None
    if task.labels:
        return class_index(value, task.labels, where)
    return number_in_range(value, 0.0, 5.0, where)
