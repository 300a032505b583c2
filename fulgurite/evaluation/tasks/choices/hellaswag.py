"""HellaSwag (arXiv 1905.07830): how a description goes on. Texts are cleaned as in lm-evaluation-harness."""

from __future__ import annotations

from fulgurite.data.tasks.questions.hellaswag import HELLASWAG, hellaswag_item
from fulgurite.evaluation.tasks.choices.accuracy import accuracy
from fulgurite.evaluation.tasks.task import Hub, Item, Task, register

__all__: list[str] = []


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[item.target]}"


register(
    Task(
        "hellaswag",
        "which of four sentences goes on with a description, by log-likelihood",
        1,
        hellaswag_item,
        hub=Hub.of(HELLASWAG, "val"),
        files=("qa/hellaswag/hellaswag_val.jsonl", "hellaswag/hellaswag_val.jsonl", "hellaswag_val.jsonl"),
        example=_example,
        metrics=accuracy,
    )
)
