"""critique: feedback on each completion by itself, with an overall score from 1 to 10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.annotation.parsing import Unread, critique_in
from fulgurite.synthesis.desk import Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class CritiqueOptions:
    """Who criticises what.

    Args:
        by: the model that criticises.
        retries: how often an answer without a score is asked for again.
        column: of the completions.
        into: what the critique is called in each completion.
        score_into: what the score is called.
    """

    by: str
    retries: int = 2
    column: str = "completions"
    into: str = "critique"
    score_into: str = "overall_score"

    def __post_init__(self) -> None:
        if self.retries < 0:
            raise ValueError(f"synthesize: retries={self.retries}; give 0 or more")


def _run(options: CritiqueOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    places = [(number, place) for number, row in enumerate(rows) for place in range(len(row.data[options.column]))]
    found: dict[tuple[int, int], tuple[str, float | Unread | None]] = {}
    made: dict[int, list[Any]] = {}
    waiting: set[int] = set()
    for attempt in range(options.retries + 1):
        todo = [at for at in places if at[0] not in waiting and isinstance(found.get(at, ("", Unread()))[1], Unread)]
        asks = [_ask(options, rows[number], place, attempt, desk) for number, place in todo]
        for at, answer in zip(todo, desk.ask(asks, "critiques"), strict=True):
            if answer is None:
                waiting.add(at[0])
                continue
            made.setdefault(at[0], []).append(answer.made)
            critique, score = critique_in(answer.text)
            found[at] = (critique or found.get(at, ("", None))[0], score)
    kept = []
    for number, row in enumerate(rows):
        if number in waiting:
            desk.wait(row)
            continue
        completions = []
        for place, completion in enumerate(row.data[options.column]):
            critique, score = found[number, place]
            if isinstance(score, Unread):
                desk.note(row.key, f"no overall score: {score}", f"completion {place + 1}")
                score = None
            completions.append({**completion, options.into: critique, options.score_into: score})
        kept.append(row.having({options.column: completions}, tuple(made.get(number, ()))))
    return kept


def _ask(options: CritiqueOptions, row: Row, place: int, attempt: int, desk: Desk) -> Ask:
    completion = row.data[options.column][place]
    fields = {
        "instruction": row.text("instruction"),
        "principle": completion.get("custom_system_prompt", ""),
        "answer": str(completion["response"]),
        "again": "yes" if attempt else "",
    }
    turns = (Turn("user", desk.prompt("critique", fields)),)
    return Ask(row.key, f"completion {place}", options.by, turns, attempt, ("critique",))


register(Step("critique", "feedback on each completion, with an overall score", CritiqueOptions, _run))
