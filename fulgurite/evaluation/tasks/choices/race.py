"""RACE (arXiv 1704.04683): an article and its questions. As in lm-evaluation-harness: the article, all questions but the last
with their answers, then the last question, whose four answers are compared; acc only.

Rows: {article, questions, options, answers} as published and in ExpMRC, a list each; or {article, problems} of the hub's copy,
where `problems` is a list written as a text.
"""

from __future__ import annotations

import ast
from typing import Any

from fulgurite.evaluation.tasks.choices.accuracy import accuracy_alone, with_blank
from fulgurite.evaluation.tasks.task import Item, Row, Task, field_of, register

__all__: list[str] = []

_GAP = "  _  ."


def _item(row: Row, number: int) -> Item:
    article, problems = field_of(row, "article"), _problems(row)
    text = f"Article: {article}\n\n"
    for problem in problems[:-1]:
        right = problem["options"]["ABCD".index(problem["answer"])]
        if problem["question"][-6:] == _GAP:
            text += f"{problem['question'][:-5]}{right}\n"
        else:
            text += f"Question: {problem['question']}\nAnswer: {right}\n"
    last = problems[-1]
    key = str(row.get("id") or row.get("example_id") or number)
    return Item(key, text + last["question"], "ABCD".index(last["answer"]), with_blank(last["options"]))


def _problems(row: Row) -> list[dict[str, Any]]:
    if "problems" in row:
        given = row["problems"]
        try:
            found = ast.literal_eval(given) if isinstance(given, str) else list(given)
        except (ValueError, SyntaxError, TypeError) as error:
            raise ValueError(f"'problems' is no list of questions ({type(error).__name__})") from error
    else:
        questions, options, answers = (field_of(row, name, list) for name in ("questions", "options", "answers"))
        if not len(questions) == len(options) == len(answers):
            raise ValueError(f"{len(questions)} questions, {len(options)} options and {len(answers)} answers")
        found = [
            {"question": question, "options": texts, "answer": answer}
            for question, texts, answer in zip(questions, options, answers, strict=True)
        ]
    for problem in found:
        texts = problem.get("options") if isinstance(problem, dict) else None
        if (
            not isinstance(texts, list)
            or len(texts) != 4
            or str(problem.get("answer")) not in ("A", "B", "C", "D")
            or not all(isinstance(text, str) and text for text in (*texts, problem.get("question")))
        ):
            raise ValueError(f"a question without four options and an answer from A to D: {str(problem)[:80]}")
    if not found:
        raise ValueError("there is no question")
    return found


register(
    Task(
        "race",
        "RACE (high school): the article's last question after the others with their answers, by log-likelihood",
        1,
        _item,
        files=("qa/race/expmrc-race-dev.head-110.json", "race/expmrc-race-dev.json", "race.json", "race.jsonl"),
        metrics=accuracy_alone,
    )
)
