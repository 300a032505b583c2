"""Rows of SciQ (arXiv 1707.06209): a science question, with the passage that supports it where the rows have one.

Rows as on the hub (question, three distractors, correct_answer, support), in lm-evaluation-harness's prompt and order of
choices; and the rows of LLM-Adapters, whose instruction lists the choices and which have no support. The two are not
comparable.
"""

from __future__ import annotations

import re

from fulgurite.data.records.item import Item, Row, field_of, with_blank
from fulgurite.data.tasks.questions.task import HubRows, QuestionTask, register_questions

__all__ = ["SCIQ", "sciq_item"]

_QUESTION = re.compile(r"answer to the question:\s*(.*?)\s*\n\s*\nAnswer1:", re.DOTALL)
_CHOICE = re.compile(r"^Answer(\d): *(.*)$", re.MULTILINE)


def sciq_item(row: Row, number: int) -> Item:
    """A row as an item."""
    if "instruction" in row:
        return _listed(row, number)
    texts = [field_of(row, f"distractor{i}") for i in (1, 2, 3)] + [field_of(row, "correct_answer")]
    support = str(row.get("support") or "").lstrip()
    return Item(str(number), f"{support}\nQuestion: {field_of(row, 'question')}\nAnswer:", 3, with_blank(texts))


def _listed(row: Row, number: int) -> Item:
    text, key = field_of(row, "instruction"), field_of(row, "answer")
    question, choices = _QUESTION.search(text), dict(_CHOICE.findall(text))
    right = key.removeprefix("answer")
    if question is None or right not in choices or not all(choice.strip() for choice in choices.values()):
        raise ValueError(f"'instruction' lists no question with choices among which {key!r} is")
    texts = [choices[name].strip() for name in sorted(choices)]
    prompt = f"\nQuestion: {question.group(1)}\nAnswer:"
    return Item(str(number), prompt, sorted(choices).index(right), with_blank(texts))


def _published(stem: str, texts: list[str], right: int, number: int) -> Row:
    wrong = [*(text for i, text in enumerate(texts) if i != right), "none of these", "all of these"]
    named = {f"distractor{i}": text for i, text in enumerate(wrong[:3], 1)}
    return {"support": "", "question": stem, "correct_answer": texts[right], **named}


SCIQ = register_questions(
    QuestionTask(
        "sciq",
        sciq_item,
        _published,
        HubRows(
            "allenai/sciq",
            None,
            {"train": "train", "val": "validation", "test": "test"},
            "2c94ad3e1aafab77146f384e23536f97a4849815",
        ),
    )
)
