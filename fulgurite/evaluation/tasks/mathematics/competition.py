"""MATH (arXiv 2103.03874): competition problems whose answer is an expression.

Prompt of lm-evaluation-harness, ``Problem: …\\nAnswer:``. The answer is the last ``\\boxed{}``, else what follows "answer is",
else the text between its first and last dollar sign, else its first line; it is compared by math-verify.
"""

from __future__ import annotations

import re

from fulgurite.evaluation.judging.expressions import ExpressionJudge, last_boxed
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__ = ["expression_in"]

_SAID = re.compile(r"answer is:?\s*(.+)", re.IGNORECASE)
_ASKED = "{0}\nReason step by step, and put the final answer within \\boxed{{}}."


def expression_in(text: str) -> str | None:
    """The expression that a solution ends with; None for an empty text.

    Args:
        text: a solution.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    said = _SAID.findall(text)
    if said:
        text = said[-1]
    marks = [place for place, letter in enumerate(text) if letter == "$"]
    if len(marks) > 1:
        return text[marks[0] + 1 : marks[-1]].strip() or None
    return next((line.strip().rstrip(".") for line in text.splitlines() if line.strip()), None)


def _item(row: Row, number: int) -> Item:
    problem, solution = field_of(row, "problem"), str(row.get("solution") or "")
    target = str(row.get("answer") or last_boxed(solution) or "")
    if not target:
        raise ValueError("there is no 'answer', and 'solution' holds no \\boxed{}")
    key = str(row.get("unique_id") or number)
    return Item(
        key,
        f"Problem: {problem}\nAnswer:",
        target,
        question=_ASKED.format(problem),
        solution=solution or f"\\boxed{{{target}}}",
    )


def _example(item: Item) -> str:
    return f"{item.prompt} {item.solution}"


register(
    Task(
        "math",
        "competition problems; the last boxed expression, compared by math-verify",
        1,
        _item,
        ExpressionJudge(),
        files=("math/math/test.jsonl", "math/test.jsonl", "math.jsonl", "test.jsonl"),
        stop=("Problem:",),
        max_new_tokens=1024,
        answer=lambda text, item: expression_in(text),
        example=_example,
    )
)
