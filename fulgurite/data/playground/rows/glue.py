"""Built-in rows in the schema of the hub's ``glue``: nine tasks and the diagnostic set ax.

The labels follow from how a row was made (its polarity, its grammar, the relation of two scenes), so that a model has
to generalise over held-out combinations; see ``draw``. They are toys in GLUE's columns, not a measure of ability.
As on the hub, test labels are -1. Label ids are the hub's: cola 1 acceptable; sst2 1 positive; mrpc 1 equivalent;
qqp 1 duplicate; mnli and ax 0 entailment, 1 neutral, 2 contradiction; qnli and rte 0 entailment; wnli 1 entailment;
stsb a similarity from 0 to 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fulgurite.data.playground.content.grammar import cola
from fulgurite.data.playground.content.reviews import review
from fulgurite.data.playground.draw import Draw, split_of
from fulgurite.data.playground.rows.glue_pairs import mnli, mrpc, qnli, qqp, rte, stsb, wnli

__all__ = ["GLUE_COLUMNS", "GLUE_LABELS", "GLUE_SPLITS", "glue_rows"]

GLUE_COLUMNS: dict[str, tuple[str, ...]] = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "mrpc": ("sentence1", "sentence2"),
    "qqp": ("question1", "question2"),
    "stsb": ("sentence1", "sentence2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
    "rte": ("sentence1", "sentence2"),
    "wnli": ("sentence1", "sentence2"),
    "ax": ("premise", "hypothesis"),
}
GLUE_LABELS: dict[str, tuple[str, ...]] = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "stsb": (),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
    "ax": ("entailment", "neutral", "contradiction"),
}
_MNLI_SPLITS = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
GLUE_SPLITS: dict[str, tuple[str, ...]] = {
    task: _MNLI_SPLITS if task == "mnli" else ("test",) if task == "ax" else ("train", "validation", "test")
    for task in GLUE_COLUMNS
}
_COUNTS = {"train": 2000, "validation": 400, "test": 400}

# Their texts show less than the combination they are made from, so it is the texts that belong to one split.
_BY_TEXT = ("qqp",)

_Row = tuple[tuple[str, ...], float]


def _sst2(draw: Draw, label: int) -> _Row:
    return (review(draw, label == 1),), label


_MAKERS: dict[str, Callable[[Draw, int], _Row]] = {
    "cola": cola,
    "sst2": _sst2,
    "mrpc": mrpc,
    "qqp": qqp,
    "stsb": stsb,
    "mnli": mnli,
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
    "ax": mnli,
}


def glue_rows(task: str, split: str, seed: int = 0) -> list[dict[str, Any]]:
    """The rows of one split: the task's text columns, then ``label`` and ``idx``.

    Args:
        task: cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli or ax.
        split: train, validation or test; mnli has validation_matched and so on; ax has only test.
        seed: equal seeds give equal rows.
    """
    if task not in GLUE_COLUMNS:
        raise ValueError(f"glue_rows: task {task!r}; allowed are {', '.join(GLUE_COLUMNS)}; choose one of them.")
    if split not in GLUE_SPLITS[task]:
        raise ValueError(
            f"glue_rows: split {split!r} of {task}; allowed are {', '.join(GLUE_SPLITS[task])}; choose one of them."
        )
    part = split.split("_")[0]
    draw = Draw(f"glue|{task}|{split}|{seed}", part)
    make: Callable[[Draw, int], _Row] = _MAKERS[task]
    if split.endswith("mismatched"):
        make = _elsewhere
    classes = max(len(GLUE_LABELS[task]), 1)
    rows: list[dict[str, Any]] = []
    seen = set()
    while len(rows) < (2400 if (task, split) == ("sst2", "train") else _COUNTS[part]):
        texts, label = make(draw, draw.integer(0, classes - 1))
        if texts in seen or (task in _BY_TEXT and split_of(*texts) != part):
            continue
        seen.add(texts)
        if part == "test":
            label = -1
        row: dict[str, Any] = dict(zip(GLUE_COLUMNS[task], texts, strict=True))
        rows.append(row | {"label": float(label) if task == "stsb" else int(label), "idx": len(rows)})
    return rows


def _elsewhere(draw: Draw, label: int) -> _Row:
    return mnli(draw, label, elsewhere=True)
