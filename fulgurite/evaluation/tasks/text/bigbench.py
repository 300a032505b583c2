"""BIG-bench (arXiv 2206.04615), JSON tasks: by log-likelihood where the examples have `target_scores`, else by the text written.

A task's file says how it is asked: `example_input_prefix` ("\\nQ: "), `example_output_prefix` ("\\nA: "), `task_prefix`, and
whether the choices are listed (`append_choices_to_input`). Here the published defaults stand: the rows are read one by one.
`multiple_choice_grade` is the score of the choice with the largest log-likelihood; exact_str_match compares with any of the
targets.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.choices.accuracy import chosen, with_blank
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__: list[str] = []


def _choice(row: Row, number: int) -> Item:
    scores = field_of(row, "target_scores", dict)
    if not scores or not all(isinstance(value, (int, float)) for value in scores.values()):
        raise ValueError("'target_scores' holds no score for each choice")
    listed = "".join(f"\n  choice: {text}" for text in scores)
    prompt = f"Q: {field_of(row, 'input')}{listed}\nA:"
    return Item(str(number), prompt, list(scores.values()), with_blank(list(scores)))


def _grade(item: Item, sums: Sequence[float], greedy: Sequence[bool] | None) -> dict[str, float]:
    return {"multiple_choice_grade": float(item.target[chosen(sums)])}


def _written(row: Row, number: int) -> Item:
    target = row.get("target")
    if target is None and isinstance(row.get("target_scores"), dict):
        scores = row["target_scores"]
        target = [text for text, score in scores.items() if score == max(scores.values())]
    targets = [target] if isinstance(target, str) else target
    if not isinstance(targets, list) or not targets or not all(isinstance(text, str) for text in targets):
        raise ValueError("there is no 'target'")
    asked = field_of(row, "input")
    return Item(str(number), f"Q: {asked}\nA:", targets, question=asked, solution=targets[0])


def _canonical(text: str) -> str:
    return " ".join(text.split()).lower()


def _same(answer: str, target: Any) -> bool:
    return _canonical(answer) in [_canonical(text) for text in target]


def _line(text: str, item: Item) -> str | None:
    return next((line.strip() for line in text.splitlines() if line.strip()), None)


register(
    Task(
        "bigbench_choices",
        "any BIG-bench JSON task with target_scores (name its file by --path): the choice by log-likelihood",
        1,
        _choice,
        files=("task.json",),
        metrics=_grade,
    )
)
register(
    Task(
        "bigbench_written",
        "any BIG-bench JSON task (name its file by --path): the text is written, and compared exactly",
        1,
        _written,
        TextJudge(_same, _canonical),
        files=("task.json",),
        stop=("\nQ:",),
        max_new_tokens=64,
        answer=_line,
    )
)
