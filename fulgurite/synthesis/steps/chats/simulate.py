"""simulate: instructions become dialogues of two roles, a user model and an assistant model, whose answers are judged.

    turn 1: the assistant answers the instruction
    turn t: the user model, shown the dialogue, writes the next message; the assistant answers it

A dialogue has as many turns as were drawn for it, 1 to `turns` with equal chance. It ends before that when the user model writes
END, repeats itself or writes nothing of use, or when no answer to a later message can stand. Each answer is drawn up to `tries`
times until one can stand (see `running`); a row whose first message has no such answer is left out. UltraChat 2 itself has one
turn; UltraChat, whose two roles these are, has several.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.synthesis.desk import Answer, Ask, Desk
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register
from fulgurite.synthesis.steps.chats.domains import check_domains, with_domain
from fulgurite.synthesis.steps.chats.running import (
    Judged,
    Said,
    check_sandbox,
    identity_of,
    judge_answers,
    unusable,
)

__all__: list[str] = []

_END = re.compile(r"\W*END\W*")
_LEAD = re.compile(r"^\W{0,4}(?:user|human)\W{0,3}:\W{0,3}", re.IGNORECASE)


@dataclass(frozen=True)
class SimulateOptions:
    """Who speaks, how long, and what is judged.

    Args:
        assistant: the model that answers; or one for each domain.
        user: the model that plays the user from the second turn on; needed for more than one turn.
        turns: questions of a dialogue at most.
        tries: draws of an answer at most, until one can stand.
        run_code: whether Python in answers is run where neither tests nor an answer are there to judge by.
        into: the column of the dialogue, a list of texts.
    """

    assistant: str | dict[str, str]
    user: str | None = None
    turns: int = 1
    tries: int = 1
    run_code: bool = True
    into: str = "data"

    def __post_init__(self) -> None:
        if isinstance(self.assistant, dict):
            check_domains(dict(self.assistant), "assistant of simulate")
        if self.turns < 1 or self.tries < 1:
            raise ValueError(f"synthesize: simulate has turns={self.turns}, tries={self.tries}; give 1 or more of both")
        if (self.turns > 1) != (self.user is not None):
            told = (
                "needs a model that plays the user" if self.turns > 1 else "has one turn, in which no user model speaks"
            )
            raise ValueError(f"synthesize: simulate {told}; set user and turns above 1 together, or neither")

    def model(self, domain: str) -> str | None:
        """The assistant of a domain; None if there is none.

        Args:
            domain: text, code or maths.
        """
        return self.assistant.get(domain) if isinstance(self.assistant, dict) else self.assistant


@dataclass
class _Chat:
    """A dialogue on its way.

    Attributes:
        row: its row.
        model: the assistant.
        wanted: turns that were drawn for it.
        turns: so far.
        made: provenance of the answers in it.
        open: whether it goes on.
        judged: by what its answers were judged.
    """

    row: Row
    model: str
    wanted: int
    turns: list[Turn] = field(default_factory=list)
    made: list[Mapping[str, Any]] = field(default_factory=list)
    open: bool = True
    judged: list[str] = field(default_factory=list)


def _run(options: SimulateOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    chats = _begun(options, rows, desk)
    if options.run_code:
        check_sandbox(desk.how, desk.step)
    identity = identity_of(
        [chat.row.problem for chat in chats if chat.row.problem is not None], desk.how, options.run_code
    )
    waiting: set[str] = set()
    for number in range(1, options.turns + 1):
        going = [chat for chat in chats if chat.open and chat.wanted >= number and chat.row.key not in waiting]
        if number > 1:
            _ask_users(options, going, number, desk, waiting)
            going = [chat for chat in going if chat.open and chat.row.key not in waiting]
        _answer(options, going, number, desk, identity, waiting)
    kept = []
    for chat in chats:
        if chat.row.key not in waiting and chat.made:
            data = [turn.content for turn in chat.turns]
            kept.append(chat.row.having({options.into: data}, tuple(chat.made)))
    done = [chat for chat in chats if chat.row.key not in waiting and chat.made]
    desk.count.figures = {
        "dialogues by turns": dict(sorted(Counter(len(chat.turns) // 2 for chat in done).items())),
        "answers judged by": dict(sorted(Counter(by for chat in done for by in chat.judged).items())),
    }
    return kept


def _begun(options: SimulateOptions, rows: Sequence[Row], desk: Desk) -> list[_Chat]:
    chats = []
    for row, domain in with_domain(list(rows), desk):
        model = options.model(domain)
        if "topic" in row.data:
            desk.drop(row, "a topic that did not become instructions", row.text("topic"))
        elif model is None:
            desk.drop(row, "a domain without an assistant", domain)
        else:
            drawn = int(random.Random(f"{desk.seed}|{desk.step}|{row.key}").random() * options.turns) + 1
            first = Turn("user", row.text("instruction"))
            chats.append(_Chat(row, model, options.turns if desk.dry is not None else drawn, [first]))
    return chats


def _ask_users(options: SimulateOptions, chats: Sequence[_Chat], number: int, desk: Desk, waiting: set[str]) -> None:
    """The next message of each dialogue, or its end."""
    asks = []
    for chat in chats:
        told = "\n\n".join(f"{turn.role}: {turn.content}" for turn in chat.turns)
        turns = (Turn("user", desk.prompt("chat_user", {"dialogue": told})),)
        asks.append(Ask(chat.row.key, f"turn {number}/user", str(options.user), turns, 0, ("chat_user",)))
    for chat, answer in zip(chats, desk.ask(asks, "users' messages"), strict=True):
        if answer is None:
            waiting.add(chat.row.key)
            desk.wait(chat.row)
            continue
        text = _LEAD.sub("", answer.text.strip()).strip()
        why = unusable(answer) or ("an empty text" if not text else None)
        if why is None and _END.fullmatch(text):
            why = "END"
        if why is None and desk.dry is None and _plain(text) in {_plain(t.content) for t in chat.turns}:
            why = "something that was said before"
        if why is None:
            chat.turns.append(Turn("user", text))
            chat.made.append(answer.made)
        else:
            chat.open = False
            desk.note(chat.row.key, f"shorter than drawn: the user wrote {why}", f"turn {number} of {chat.wanted}")


def _answer(
    options: SimulateOptions,
    chats: Sequence[_Chat],
    number: int,
    desk: Desk,
    identity: Mapping[str, Any],
    waiting: set[str],
) -> None:
    """An answer that can stand for each dialogue whose last message has none, as far as `tries` draws have one."""
    left, why = list(chats), dict[str, Judged]()
    for index in range(options.tries):
        asks = [
            Ask(chat.row.key, f"turn {number}/assistant", chat.model, tuple(chat.turns[: 2 * number - 1]), index, ())
            for chat in left
        ]
        drawn: list[tuple[_Chat, Answer]] = []
        for chat, answer in zip(left, desk.ask(asks, "answers"), strict=True):
            if answer is None:
                waiting.add(chat.row.key)
                desk.wait(chat.row)
            else:
                drawn.append((chat, answer))
        said = [_said(chat, answer, number) for chat, answer in drawn]
        left = []
        for (chat, answer), judged in zip(drawn, judge_answers(said, desk, identity, options.run_code), strict=True):
            if judged is None:
                waiting.add(chat.row.key)
                desk.wait(chat.row, "what judges is broken")
            elif judged.why and desk.dry is None:
                why[chat.row.key] = judged
                desk.note(chat.row.key, f"an answer that cannot stand: {judged.why}", f"turn {number}: {judged.detail}")
                left.append(chat)
            else:
                _take(chat, answer, judged, number, desk)
                left += [chat] if desk.dry is not None and index + 1 < options.tries else []
    for chat in left if desk.dry is None else ():
        chat.open = False
        if number == 1:
            desk.drop(chat.row, f"no answer that can stand: {why[chat.row.key].why}", why[chat.row.key].detail)
            chat.made.clear()
        else:
            chat.turns.pop()
            chat.made.pop()
            desk.note(chat.row.key, "shorter than drawn: no answer could stand", f"turn {number} of {chat.wanted}")


def _said(chat: _Chat, answer: Answer, number: int) -> Said:
    earlier = tuple(turn.content for turn in chat.turns if turn.role == "assistant")
    return Said(chat.row.key, chat.row.problem if number == 1 else None, earlier, answer)


def _take(chat: _Chat, answer: Answer, judged: Judged, number: int, desk: Desk) -> None:
    if len(chat.turns) == 2 * number:  # a dry run counts all tries of an answer
        return
    chat.turns.append(Turn("assistant", answer.text.strip()))
    chat.made.append(answer.made)
    chat.judged.append(judged.by)
    if judged.by == "not run here":
        desk.note(chat.row.key, "code that cannot be run here", judged.detail)


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


register(
    Step(
        "simulate", "dialogues of a user model and an assistant model, whose answers are judged", SimulateOptions, _run
    )
)
