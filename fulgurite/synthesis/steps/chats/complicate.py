"""complicate: a share of the instructions is rewritten to be harder (UltraFuser: 30 %).

An instruction whose answer or tests are known stays as it is: the answer would no longer be right.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class ComplicateOptions:
    """Who rewrites how many.

    Args:
        by: the model that rewrites.
        share: of the instructions, drawn at random.
        column: of the instruction.
    """

    by: str
    share: float = 0.3
    column: str = "instruction"

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"synthesize: share={self.share} of complicate; give more than 0, up to 1")


def _run(options: ComplicateOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    drawn = [row for row in rows if random.Random(f"{desk.seed}|{desk.step}|{row.key}").random() < options.share]
    todo = []
    for row in drawn:
        if row.problem is None:
            todo.append(row)
        else:
            desk.note(row.key, "not rewritten: its right answer is known")
    asks = [_ask(options, row, desk) for row in todo]
    answers = dict(zip((row.key for row in todo), desk.ask(asks, "harder instructions"), strict=True))
    kept, rewritten = [], 0
    for row in rows:
        if row.key not in answers:
            kept.append(row)
            continue
        answer = answers[row.key]
        if answer is None:
            desk.wait(row)
            continue
        why = _unusable(answer, row.text(options.column))
        if why is None:
            rewritten += 1
            new = {options.column: answer.text.strip(), "before": row.text(options.column)}
            kept.append(row.having(new, (answer.made,)))
        else:
            desk.note(row.key, f"stays as it was: {why}")
            kept.append(row.having({}, (answer.made,)))
    desk.count.figures = {"drawn": len(drawn), "rewritten": rewritten}
    return kept


def _ask(options: ComplicateOptions, row: Row, desk: Desk) -> Ask:
    turns = (Turn("user", desk.prompt("chat_complicate", {"instruction": row.text(options.column)})),)
    return Ask(row.key, "harder", options.by, turns, 0, ("chat_complicate",))


def _unusable(answer: Answer, before: str) -> str | None:
    if answer.finish == "window":
        return "the prompt does not fit into the model's window"
    if answer.finish == "broken Unicode" or not answer.text.strip():
        return "an empty answer" if answer.finish != "broken Unicode" else answer.finish
    if answer.finish == "length":
        return "a rewriting without an end"
    return "the rewriting is the same" if answer.text.split() == before.split() else None


register(Step("complicate", "a share of the instructions is rewritten to be harder", ComplicateOptions, _run))
