"""Rows of ARC (arXiv 1803.05457) and OpenBookQA (arXiv 1809.02789): a question and the texts of its answers.

Rows as published ({id, question {stem, choices [{text, label}]}, answerKey}) and as on the hub ({id, question or question_stem,
choices {text, label}, answerKey}). Prompts of lm-evaluation-harness: ``Question: …\\nAnswer:`` for ARC, the bare stem for
OpenBookQA.
"""

from __future__ import annotations

from typing import Any

from fulgurite.data.records.item import Item, Row, field_of, with_blank
from fulgurite.data.tasks.questions.task import HubRows, QuestionTask, register_questions

__all__ = ["ARC", "OPENBOOKQA", "arc_item", "openbookqa_item", "parts_of"]


def parts_of(row: Row) -> tuple[str, str, list[str], int]:
    """Id, question, choices, and the right one's place."""
    question: Any = row.get("question")
    if isinstance(question, dict):
        stem, given = field_of(question, "stem"), field_of(question, "choices", list)
        labels = [str(field_of(choice, "label")) for choice in given]
        texts = [field_of(choice, "text") for choice in given]
    else:
        stem = field_of(row, "question_stem" if "question_stem" in row else "question")
        given = field_of(row, "choices", dict)
        labels, texts = [str(label) for label in field_of(given, "label", list)], field_of(given, "text", list)
        if len(labels) != len(texts):
            raise ValueError(f"'choices' hold {len(labels)} labels and {len(texts)} texts; each choice has one of both")
        texts = [field_of({"text": text}, "text") for text in texts]
    key = field_of(row, "answerKey").strip()
    if len(set(labels)) < len(labels):
        raise ValueError(f"the choices are labelled {', '.join(labels)}; a label stands there twice")
    if key not in labels:
        raise ValueError(f"'answerKey' is {key!r}; the choices are labelled {', '.join(labels)}")
    return str(field_of(row, "id", (str, int))), stem, texts, labels.index(key)


def arc_item(row: Row, number: int) -> Item:
    """A row of ARC as an item."""
    key, stem, texts, right = parts_of(row)
    return Item(key, f"Question: {stem}\nAnswer:", right, with_blank(texts))


def openbookqa_item(row: Row, number: int) -> Item:
    """A row of OpenBookQA as an item."""
    key, stem, texts, right = parts_of(row)
    return Item(key, stem, right, with_blank(texts))


def _published(stem: str, texts: list[str], right: int, number: int) -> Row:
    choices = [{"text": text, "label": label} for text, label in zip(texts, "ABCDE", strict=False)]
    return {"id": f"q{number}", "question": {"stem": stem, "choices": choices}, "answerKey": "ABCDE"[right]}


_SPLITS = {"train": "train", "val": "validation", "test": "test"}
ARC = {
    name: register_questions(
        QuestionTask(
            f"arc_{name}",
            arc_item,
            _published,
            HubRows("allenai/ai2_arc", config, _SPLITS, "210d026faf9955653af8916fad021475a3f00453"),
            {"train": f"{config}-Train", "val": f"{config}-Dev", "test": f"{config}-Test"},
        )
    )
    for name, config in (("easy", "ARC-Easy"), ("challenge", "ARC-Challenge"))
}
OPENBOOKQA = register_questions(
    QuestionTask(
        "openbookqa",
        openbookqa_item,
        _published,
        HubRows("allenai/openbookqa", "main", _SPLITS, "388097ea7776314e93a529163e0fea805b8a6454"),
    )
)
