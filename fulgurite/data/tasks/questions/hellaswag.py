"""Rows of HellaSwag (arXiv 1905.07830): how a description goes on. Texts are cleaned as in lm-evaluation-harness."""

from __future__ import annotations

import re

from fulgurite.data.records.item import Item, Row, field_of, with_blank
from fulgurite.data.tasks.questions.task import HubRows, QuestionTask, register_questions

__all__ = ["HELLASWAG", "hellaswag_item"]


def _cleaned(text: str) -> str:
    """Without the marks that WikiHow's pages left."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def hellaswag_item(row: Row, number: int) -> Item:
    """A row as an item."""
    label = str(row.get("label"))
    endings = [field_of({"endings": text}, "endings") for text in field_of(row, "endings", list)]
    if label not in map(str, range(len(endings))):
        raise ValueError(f"'label' is {row.get('label')!r}; needed is a number from 0 to {len(endings) - 1}")
    context = f"{field_of(row, 'ctx_a')} {str(row.get('ctx_b') or '').capitalize()}"
    prompt = _cleaned(f"{field_of(row, 'activity_label')}: {context}")
    return Item(str(row.get("ind", number)), prompt, int(label), with_blank([_cleaned(text) for text in endings]))


def _published(stem: str, texts: list[str], right: int, number: int) -> Row:
    return {"ind": number, "activity_label": "Question", "ctx_a": stem, "ctx_b": "", "endings": texts, "label": right}


HELLASWAG = register_questions(
    QuestionTask(
        "hellaswag",
        hellaswag_item,
        _published,
        HubRows(
            "Rowan/hellaswag",
            None,
            {"train": "train", "val": "validation"},
            "218ec52e09a7e7462a5400043bb9a69a41d06b76",
        ),
        {"train": "hellaswag_train", "val": "hellaswag_val"},
    )
)
