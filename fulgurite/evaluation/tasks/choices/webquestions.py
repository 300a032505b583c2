"""WebQuestions (Berant et al., 2013): one of the accepted answers is what greedy decoding writes. As lm-evaluation-harness's webqs.

Rows and prompt: :mod:`fulgurite.data.tasks.questions.webquestions`.
"""

from __future__ import annotations

from collections.abc import Sequence

from fulgurite.data.tasks.questions.webquestions import webquestions_item
from fulgurite.evaluation.tasks.task import Item, Task, register

__all__: list[str] = []


def _any(item: Item, sums: Sequence[float], greedy: Sequence[bool] | None) -> dict[str, float]:
    return {"exact_match": float(any(greedy or ()))}


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[0]}"


register(
    Task(
        "webquestions",
        "questions about facts: greedy decoding writes one of the accepted answers",
        1,
        webquestions_item,
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
