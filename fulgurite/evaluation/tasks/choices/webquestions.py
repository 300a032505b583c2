"""WebQuestions (Berant et al., 2013): one of the accepted answers is what greedy decoding writes. As lm-evaluation-harness's webqs.

Of the accepted answers those that begin with another one are left out: the shorter one decides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fulgurite.evaluation.tasks.choices.accuracy import with_blank
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__: list[str] = []

_DESCRIPTION = re.compile(r'\(description "?(.*?)"?\)(?= \(description|\)?$)')


def _item(row: Row, number: int) -> Item:
    """Rows {question, answers} of the hub, {utterance, targetValue} as published, {qText, answers} of the QA repository."""
    name = next((name for name in ("question", "qText", "utterance") if name in row), "question")
    if "targetValue" in row:
        answers = _DESCRIPTION.findall(field_of(row, "targetValue").removeprefix("(list ").removesuffix(")"))
    else:
        answers = list(field_of(row, "answers", list))
    kept: list[str] = []
    for answer in sorted(answer for answer in answers if isinstance(answer, str) and answer):
        if not kept or not answer.startswith(kept[-1]):
            kept.append(answer)
    if not kept:
        raise ValueError("there is no accepted answer")
    key = str(row.get("qId") or number)
    return Item(key, f"Question: {field_of(row, name)}\nAnswer:", kept, with_blank(kept))


def _any(item: Item, sums: Sequence[float], greedy: Sequence[bool] | None) -> dict[str, float]:
    return {"exact_match": float(any(greedy or ()))}


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[0]}"


register(
    Task(
        "webquestions",
        "questions about facts: greedy decoding writes one of the accepted answers",
        1,
        _item,
        files=(
            "qa/webquestions/val.json",
            "webquestions/val.json",
            "qa/webquestions/devtest.json",
            "webquestions.json",
        ),
        example=_example,
        metrics=_any,
        greedy=True,
    )
)
