"""HellaSwag (arXiv 1905.07830): how a description goes on. Texts are cleaned as in lm-evaluation-harness."""

from __future__ import annotations

import re

from fulgurite.evaluation.tasks.choices.accuracy import accuracy, with_blank
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register

__all__: list[str] = []


def _cleaned(text: str) -> str:
    """Without the marks that WikiHow's pages left."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _item(row: Row, number: int) -> Item:
    label = str(row.get("label"))
    endings = field_of(row, "endings", list)
    if label not in map(str, range(len(endings))):
        raise ValueError(f"'label' is {row.get('label')!r}; needed is a number from 0 to {len(endings) - 1}")
    context = f"{field_of(row, 'ctx_a')} {str(row.get('ctx_b') or '').capitalize()}"
    prompt = _cleaned(f"{field_of(row, 'activity_label')}: {context}")
    return Item(str(row.get("ind", number)), prompt, int(label), with_blank([_cleaned(text) for text in endings]))


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[item.target]}"


register(
    Task(
        "hellaswag",
        "which of four sentences goes on with a description, by log-likelihood",
        1,
        _item,
        hub=Hub("Rowan/hellaswag", None, "validation", "218ec52e09a7e7462a5400043bb9a69a41d06b76"),
        files=("qa/hellaswag/hellaswag_val.jsonl", "hellaswag/hellaswag_val.jsonl", "hellaswag_val.jsonl"),
        example=_example,
        metrics=accuracy,
    )
)
