"""PIQA (arXiv 1911.11641): which of two ways reaches a goal. Rows and prompt: :mod:`fulgurite.data.tasks.questions.piqa`."""

from __future__ import annotations

from fulgurite.data.tasks.questions.piqa import PIQA, piqa_item, piqa_rows
from fulgurite.evaluation.tasks.choices.accuracy import accuracy
from fulgurite.evaluation.tasks.task import Hub, Item, Task, register

__all__: list[str] = []


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[item.target]}"


register(
    Task(
        "piqa",
        "physical common sense: which of two solutions reaches the goal, by log-likelihood",
        1,
        piqa_item,
        hub=Hub.of(PIQA, "val"),
        files=("qa/piqa/dev.jsonl", "qa/piqa/dev.head-1200.jsonl", "piqa/dev.jsonl", "piqa/dev.head-1200.jsonl"),
        read=piqa_rows,
        example=_example,
        metrics=accuracy,
    )
)
