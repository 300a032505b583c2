"""SciQ (arXiv 1707.06209): a science question, with the passage that supports it where the rows have one.

Rows as on the hub (question, three distractors, correct_answer, support), in lm-evaluation-harness's prompt and order of
choices; and the rows of LLM-Adapters, whose instruction lists the choices and which have no support. The two are not
comparable.
"""

from __future__ import annotations

import re

from fulgurite.evaluation.tasks.choices.accuracy import accuracy, with_blank
from fulgurite.evaluation.tasks.task import Hub, Item, Row, Task, field_of, register

__all__: list[str] = []

_QUESTION = re.compile(r"answer to the question:\s*(.*?)\s*\n\s*\nAnswer1:", re.DOTALL)
_CHOICE = re.compile(r"^Answer(\d): *(.*)$", re.MULTILINE)


def _item(row: Row, number: int) -> Item:
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


def _example(item: Item) -> str:
    return f"{item.prompt}{item.choices[item.target]}"


register(
    Task(
        "sciq",
        "science questions with their supporting passage, where there is one, by log-likelihood",
        1,
        _item,
        hub=Hub("allenai/sciq", None, "test", "2c94ad3e1aafab77146f384e23536f97a4849815"),
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
