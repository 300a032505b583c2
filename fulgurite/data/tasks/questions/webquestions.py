"""Rows of WebQuestions (Berant et al., 2013): a question and its accepted answers.

Of the accepted answers those that begin with another one are left out: the shorter one decides.
"""

from __future__ import annotations

import re

from fulgurite.data.records.item import Item, Row, field_of, with_blank
from fulgurite.data.tasks.questions.task import QuestionTask, register_questions

__all__ = ["WEBQUESTIONS", "webquestions_item"]

_DESCRIPTION = re.compile(r'\(description "?(.*?)"?\)(?= \(description|\)?$)')


def webquestions_item(row: Row, number: int) -> Item:
    """Rows {question, answers} of the hub, {utterance, targetValue} as published, {qText, answers} of the QA repository."""
    name = next((name for name in ("question", "qText", "utterance") if name in row), "question")
    if "targetValue" in row:
        answers = _DESCRIPTION.findall(field_of(row, "targetValue").removeprefix("(list ").removesuffix(")"))
    else:
        answers = list(field_of(row, "answers", list))
    wrong = next((answer for answer in answers if not isinstance(answer, str) or not answer.strip()), None)
    if answers and (wrong is not None or None in answers):
        raise ValueError(f"an accepted answer is {wrong!r}; each is a text")
    kept: list[str] = []
    for answer in sorted(answers):
        if not kept or not answer.startswith(kept[-1]):
            kept.append(answer)
    if not kept:
        raise ValueError("there is no accepted answer")
    key = str(row.get("qId") or number)
    return Item(key, f"Question: {field_of(row, name)}\nAnswer:", kept, with_blank(kept))


def _published(stem: str, texts: list[str], right: int, number: int) -> Row:
    return {"qId": f"q{number}", "qText": stem, "answers": [texts[right]]}


WEBQUESTIONS = register_questions(
    QuestionTask(
        "webquestions",
        webquestions_item,
        _published,
        files={"train": "trainmodel", "val": "val", "test": "devtest"},
        keeps_blank=True,
    )
)
