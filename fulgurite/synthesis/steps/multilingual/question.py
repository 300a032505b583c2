"""question: one open question about each document, in its language, that its reader understands without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.asking import Wanted, check_language, read_answers
from fulgurite.synthesis.multilingual.languages import check_detector, name_of
from fulgurite.synthesis.multilingual.parsing import question_in
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class QuestionOptions:
    """Who asks about what.

    Args:
        by: the model that asks.
        retries: how often an answer that is no question, points at the document, or is in another language is asked for again.
        check_language: whether lingua looks at the question's language (extra synthesis).
        column: of the document.
        into: the column of the question.
    """

    by: str
    retries: int = 2
    check_language: bool = True
    column: str = "document"
    into: str = "instruction"

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"synthesize: retries={self.retries}; give 0 or more")


def _run(options: QuestionOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if options.check_language:
        check_detector(sorted({row.text("language") for row in rows}))
    wanted = []
    for row in rows:
        code = row.text("language")
        fields = {
            "document": row.text(options.column),
            "title": str(row.data.get("title") or ""),
            "code": code,
            "language": name_of(code),
        }

        def read(text: str, code: str = code) -> str:
            question = question_in(text)
            if options.check_language:
                check_language(question, code)
            return question

        wanted.append(Wanted(row.key, "question", "link_question", fields, read, "…"))
    kept = []
    for row, found in zip(rows, read_answers(desk, wanted, options.by, options.retries, "questions"), strict=True):
        if found.waiting:
            desk.wait(row)
        elif found.value is None:
            desk.drop(row, f"no question: {found.reason}", found.detail)
        else:
            kept.append(row.having({options.into: found.value}, tuple(found.made)))
    return kept


register(Step("question", "one open question about each document, in its language", QuestionOptions, _run))
