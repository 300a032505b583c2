"""SciQ (arXiv 1707.06209): a science question, with the passage that supports it where the rows have one.

Rows and prompt: :mod:`fulgurite.data.tasks.questions.science`. The rows of LLM-Adapters, which have no passage, are read too; the
two are not comparable.
"""

from __future__ import annotations

from fulgurite.data.tasks.questions.science import SCIQ, sciq_item
from fulgurite.evaluation.tasks.choices.accuracy import accuracy
from fulgurite.evaluation.tasks.task import Hub, Item, Task, register

__all__: list[str] = []


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[item.target]}"


register(
    Task(
        "sciq",
        "science questions with their supporting passage, where there is one, by log-likelihood",
        1,
        sciq_item,
        hub=Hub.of(SCIQ, "test"),
        files=(
            "qa/sciq/test.json",
            "sciq/test.json",
            "qa/sciq/test.llm-adapters.head-600.json",
            "sciq/test.llm-adapters.head-600.json",
        ),
        example=_example,
        metrics=accuracy,
    )
)
