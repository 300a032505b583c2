"""converse: from a first question about a document grows a dialogue of several turns, in the document's language.

The model answers with the document in sight, then asks on, in depth or into the breadth with equal chance, and answers again. After
turn k, from the second on, the dialogue ends with probability stop · 2^(k−2), at most 1: with 0.1 that is 0.1, 0.2, 0.4, 0.8, 1,
thus 2 to 6 turns, 4.14 on average. It ends early when prompt and answer together reach `window` tokens, and before an answer of
fewer than `least` letters or a question or answer that cannot be read.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.multilingual.asking import Found, Wanted, check_language, read_answers
from fulgurite.synthesis.multilingual.languages import check_detector, name_of
from fulgurite.synthesis.multilingual.parsing import Unread, answer_in, question_in
from fulgurite.synthesis.multilingual.reading import dialogue_columns
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__ = ["planned_turns"]

_FIRST = 2  # the turn after which the first draw decides


@dataclass(frozen=True)
class ConverseOptions:
    """Who talks, and how long.

    Args:
        by: the model that asks and answers.
        stop: probability that the dialogue ends after its second turn; it doubles with each further turn.
        window: tokens of a prompt with its answer from which on no further turn follows; none: any number.
        least: letters of an answer; a shorter one ends the dialogue before it.
        retries: how often a question or answer that cannot be read, or is in another language, is asked for again.
        check_language: whether lingua looks at the language of questions and answers (extra synthesis).
        document: the column of the document.
        column: the column of the first question.
    """

    by: str
    stop: float = 0.1
    window: int | None = 4070
    least: int = 10
    retries: int = 2
    check_language: bool = True
    document: str = "document"
    column: str = "instruction"

    def __post_init__(self) -> None:
        if not 0 < self.stop <= 1:
            raise ValueError(f"synthesize: stop={self.stop}; allowed is a probability above 0, up to 1")
        if self.retries < 0 or self.least < 1 or (self.window is not None and self.window < 1):
            raise ValueError("synthesize: converse needs retries of 0 or more, and a least and a window of 1 or more")


def planned_turns(draw: random.Random, stop: float) -> int:
    """Turns of a dialogue that nothing ends early.

    Args:
        draw: one number of it for each decision.
        stop: probability of the end after the second turn, doubled after each further one.
    """
    turn, probability = _FIRST, stop
    while probability < 1 and draw.random() >= probability:
        turn, probability = turn + 1, 2 * probability
    return turn


@dataclass
class _Talk:
    """One dialogue as it grows."""

    row: Row
    turns: int
    texts: list[str]
    made: list[Any] = field(default_factory=list)
    open: bool = True
    waiting: bool = False
    lost: tuple[str, str] | None = None  # why the first answer is missing

    def end(self, reason: str, detail: str, desk: Desk) -> None:
        """No further turn; a question without its answer goes."""
        self.open = False
        self.texts = self.texts[: len(self.texts) // 2 * 2]
        if self.texts:
            desk.note(self.row.key, f"ended early: {reason}", detail)
        else:
            self.lost = (reason, detail)

    def history(self) -> str:
        return "\n\n".join(f"{('Q', 'A')[place % 2]}: {text}" for place, text in enumerate(self.texts))


def _run(options: ConverseOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    if options.check_language:
        check_detector(sorted({row.text("language") for row in rows}))
    talks = []
    for row in rows:
        turns = planned_turns(random.Random(f"{desk.seed}|{desk.step}|{row.key}|turns"), options.stop)
        talks.append(_Talk(row, _most(options.stop) if desk.dry is not None else turns, [row.text(options.column)]))
    number = 0
    while growing := [talk for talk in talks if talk.open]:
        number += 1
        if number > 1:
            _turn(growing, "question", number, options, desk)
        _turn([talk for talk in growing if talk.open], "answer", number, options, desk)
        for talk in growing:
            talk.open = talk.open and number < talk.turns
    kept = []
    for talk in talks:
        if talk.waiting:
            desk.wait(talk.row)
        elif talk.lost is not None:
            desk.drop(talk.row, f"no first answer: {talk.lost[0]}", talk.lost[1])
        else:
            kept.append(talk.row.having(dialogue_columns(talk.texts), tuple(talk.made)))
    lengths = Counter(len(row.data["dialogue"]) // 2 for row in kept)
    desk.count.figures = {f"dialogues of {turns} turns": lengths[turns] for turns in sorted(lengths)}
    return kept


def _most(stop: float) -> int:
    turn = _FIRST
    while stop < 1:
        turn, stop = turn + 1, 2 * stop
    return turn


def _turn(talks: Sequence[_Talk], what: str, number: int, options: ConverseOptions, desk: Desk) -> None:
    """The next question or answer of some dialogues, asked for together."""
    asks = what == "question"
    wanted = [_wanted(talk, what, number, options, desk) for talk in talks]
    for talk, one, found in zip(
        talks, wanted, read_answers(desk, wanted, options.by, options.retries, f"{what}s"), strict=True
    ):
        talk.made += found.made
        if found.waiting:
            talk.open, talk.waiting = False, True
        elif found.value is None:
            talk.end(f"no {what}: {found.reason}" if talk.texts[1:] else found.reason, found.detail, desk)
        elif not asks and len(found.value) < options.least and desk.dry is None:
            talk.end(f"an answer of fewer than {options.least} letters", found.value, desk)
        else:
            talk.texts.append(found.value)
            if not asks and number < talk.turns and _full(one, found, options, desk):
                talk.end(f"prompt and answer of {options.window} tokens or more", "", desk)


def _wanted(talk: _Talk, what: str, number: int, options: ConverseOptions, desk: Desk) -> Wanted[str]:
    code = talk.row.text("language")
    deep = random.Random(f"{desk.seed}|{desk.step}|{talk.row.key}|{number}").random() < 0.5
    asks = what == "question"
    fields = {
        "document": talk.row.text(options.document),
        "history": talk.history(),
        "code": code,
        "language": name_of(code),
        "deep": "yes" if asks and deep else "",
    }
    said = set(talk.texts[::2])

    def read(text: str) -> str:
        found = question_in(text) if asks else answer_in(text)
        if asks and found in said:
            raise Unread("a question that was asked before", found)
        if options.check_language:
            check_language(found, code)
        return found

    return Wanted(talk.row.key, f"{what} {number}", "link_follow_up" if asks else "link_answer", fields, read, "…")


def _full(one: Wanted[str], found: Found[str], options: ConverseOptions, desk: Desk) -> bool:
    """Whether prompt and answer together reach the window."""
    if options.window is None or desk.dry is not None:
        return False
    author = desk.author(options.by)
    turns = [Turn("user", desk.prompt(one.template, one.fields)), Turn("assistant", found.value or "")]
    return sum(author.tokens([turn]) for turn in turns) >= options.window


register(
    Step(
        "converse",
        "a dialogue from a question about a document, 2 to 6 turns by a doubling stop",
        ConverseOptions,
        _run,
    )
)
