"""TheoremQA (arXiv 2305.12524): questions of university courses; answers are numbers, truth values, lists, or an option's
letter.

Numbers that are no integers are right within one per cent, as the paper's own script has it; so are the numbers of a list, one
by one. Questions with a picture are left out.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from fulgurite.evaluation.judging.numbers import canonical_number
from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.tasks.mathematics.competition import expression_in
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__: list[str] = []

_TOLERANCE = 0.01
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?|-?\.\d+")
_WORDS = {"true": "True", "yes": "True", "correct": "True", "false": "False", "no": "False", "incorrect": "False"}
_HINTS = {
    "bool": "True or False",
    "option": "the letter of the option",
    "integer": "a whole number",
    "float": "a number",
    "list of integer": "a list of whole numbers, such as [1, 2]",
    "list of float": "a list of numbers, such as [0.5, 2.0]",
}


def _item(row: Row, number: int) -> Item:
    asked, kind = field_of(row, "Question"), field_of(row, "Answer_type")
    if row.get("Picture") is not None:
        raise ValueError("the question has a picture, which a language model does not see")
    if kind not in _HINTS:
        raise ValueError(f"'Answer_type' is {kind!r}; known are {', '.join(_HINTS)}")
    value = row.get("Answer")
    if value is None:
        raise ValueError("there is no 'Answer'")
    if not _fits(kind, value):
        raise ValueError(f"'Answer' is {repr(value)[:60]}; with 'Answer_type' {kind!r} it is {_HINTS[kind]}")
    target = {"kind": kind, "value": value}
    question = f"{asked}\nEnd with 'The answer is ANSWER.', where ANSWER is {_HINTS[kind]}."
    solution = f"The answer is {value}."
    return Item(
        str(row.get("id") or number), f"Question: {asked}\nAnswer:", target, question=question, solution=solution
    )


def _fits(kind: str, value: Any) -> bool:
    """Whether the right answer is of its kind: what isn't could never be met, or could not be compared at all."""
    if kind == "bool":
        return isinstance(value, bool) or str(value).strip().lower() in ("true", "false")
    if kind == "option":
        return re.fullmatch(r"\(?[a-d]\)?", str(value).strip().lower()) is not None
    parts = value if isinstance(value, list) else [value]
    if not parts or isinstance(value, list) != kind.startswith("list"):
        return False
    return all(_is_number(part, whole="integer" in kind) for part in parts)


def _is_number(value: object, whole: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        number = float(value)
    except ValueError:
        return False
    return math.isfinite(number) and (number.is_integer() or not whole)


def _numbers(text: str) -> list[float]:
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def _answer(text: str, item: Item) -> str | None:
    kind, line = item.target["kind"], expression_in(text)
    if line is None:
        return None
    if kind == "bool":
        words = re.findall(r"[A-Za-z]+", line)
        return next((_WORDS[word.lower()] for word in words if word.lower() in _WORDS), None)
    if kind == "option":
        found = re.search(r"\(?\b([a-dA-D])\b\)?", line)
        return None if found is None else found.group(1).lower()
    if kind.startswith("list"):
        listed = re.search(r"\[[^\]]*\]", line)
        found_numbers = _NUMBER.findall(listed.group(0) if listed else line)
        return json.dumps([float(part.replace(",", "")) for part in found_numbers]) if found_numbers else None
    numbers = _NUMBER.findall(line)
    return None if not numbers else str(numbers[-1] if "answer is" not in text.lower() else numbers[0])


def _near(answer: float, target: float, exact: bool) -> bool:
    if exact:
        return answer == target
    return math.isclose(answer, target, rel_tol=_TOLERANCE, abs_tol=0.0 if target else _TOLERANCE)


def _same(answer: str, target: Any) -> bool:
    kind, value = target["kind"], target["value"]
    if kind in ("bool", "option"):
        return answer.lower() == str(value).strip().strip("()").lower()
    numbers, wanted = _numbers(answer), [float(part) for part in (value if isinstance(value, list) else [value])]
    exact = "integer" in kind
    return len(numbers) == len(wanted) and all(
        _near(mine, right, exact) for mine, right in zip(numbers, wanted, strict=True)
    )


register(
    Task(
        "theoremqa",
        "university mathematics, physics, finance and computing; numbers within one per cent",
        1,
        _item,
        TextJudge(_same, canonical_number),
        files=("math/theorem_qa/theorem_qa.json", "theorem_qa/theorem_qa.json", "theoremqa_test.json"),
        stop=("Question:",),
        max_new_tokens=512,
        answer=_answer,
    )
)
