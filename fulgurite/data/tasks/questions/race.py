"""Rows of RACE (arXiv 1704.04683): an article and its questions. As in lm-evaluation-harness: the article, all questions but the
last with their answers, then the last question, whose four answers are compared; acc only.

Rows: {article, questions, options, answers} as published and in ExpMRC, a list each; or {article, problems} of the hub's copy,
where `problems` is a list written as a text.
"""

from __future__ import annotations

import ast
from typing import Any

from fulgurite.data.records.item import Item, Row, field_of, with_blank
from fulgurite.data.tasks.questions.task import QuestionTask, register_questions

__all__ = ["RACE", "race_item"]

_GAP = "  _  ."


def race_item(row: Row, number: int) -> Item:
    """A row as an item: its last question."""
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


def _published(stem: str, texts: list[str], right: int, number: int) -> Row:
    four = [*texts, "none of these", "all of these"][:4]
    return {"id": f"q{number}", "article": "Sums.", "questions": [stem], "options": [four], "answers": ["ABCD"[right]]}


RACE = register_questions(QuestionTask("race", race_item, _published))
