"""screen: leaves out dialogues that are bound to a culture, which would be wrong or odd in another language.

First by patterns and length, which cost nothing; then a model says of seven things whether they are in the text: full names of
people, code or formulas, places, customs and history, plays on words, food and things of daily life, organisations and products.
Only a text with none of them stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.asking import Wanted, read_answers
from fulgurite.synthesis.multilingual.parsing import CRITERIA, verdict_in
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__ = ["PATTERNS"]

PATTERNS = (r"https?://", r"www\.", r"\.com\b", r"\bx1\b", r"\by1\b")  # the published ones


@dataclass(frozen=True)
class ScreenOptions:
    """Who says what is bound to a culture.

    Args:
        by: the model that judges.
        patterns: regular expressions of which none may be in a text; an empty list leaves this rule out.
        tokens: a text has fewer; none: any number.
        retries: how often a verdict that cannot be read is asked for again.
        unread: what becomes of a row whose verdict cannot be read even so: drop or keep; both are counted.
        column: of the text.
    """

    by: str
    patterns: list[str] = field(default_factory=lambda: list(PATTERNS))
    tokens: int | None = 4070
    retries: int = 2
    unread: Literal["drop", "keep"] = "drop"
    column: str = "text"

    def __post_init__(self) -> None:
        if self.retries < 0 or (self.tokens is not None and self.tokens < 1):
            raise ValueError("synthesize: screen needs retries of 0 or more, and tokens of 1 or more")
        for pattern in self.patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(
                    f"synthesize: screen: {pattern!r} is no regular expression ({error}); correct it"
                ) from error


def _run(options: ScreenOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    author = desk.author(options.by)
    plain = []
    for row in rows:
        text = row.text(options.column)
        hit = next((match for pattern in options.patterns if (match := re.search(pattern, text))), None)
        if hit is not None:
            desk.drop(row, "a pattern that is left out", hit[0])
        elif options.tokens is not None and (tokens := author.tokens([Turn("user", text)])) >= options.tokens:
            desk.drop(row, f"{options.tokens} tokens or more", str(tokens))
        else:
            plain.append(row)
    wanted = [
        Wanted(
            row.key,
            "culture",
            "link_screen",
            {"text": row.text(options.column)},
            verdict_in,
            dict.fromkeys(CRITERIA, False),
        )
        for row in plain
    ]
    kept = []
    met = dict.fromkeys(CRITERIA, 0)
    for row, found in zip(plain, read_answers(desk, wanted, options.by, options.retries, "verdicts"), strict=True):
        if found.waiting:
            desk.wait(row)
            continue
        if found.value is None and options.unread == "drop":
            desk.drop(row, f"no verdict: {found.reason}", found.detail)
            continue
        if found.value is None:
            desk.note(row.key, f"kept without a verdict: {found.reason}", found.detail)
        bound = [name for name, is_met in (found.value or {}).items() if is_met]
        for name in bound:
            met[name] += 1
        if bound:
            desk.drop(row, "bound to a culture", ", ".join(bound))
        else:
            kept.append(row.having({}, tuple(found.made)))
    desk.count.figures = {"rows that have": met}
    return kept


register(
    Step("screen", "leaves out dialogues that are bound to a culture, by patterns and a model", ScreenOptions, _run)
)
