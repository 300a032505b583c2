"""Conversations: what every reader returns and every encoder takes.

A record of a chat has the roles `system` (first only), `user` and `assistant`, which alternate. Text without roles is
one turn `text`. A prompt with its completion is the turns `prompt` and `completion`: no chat template is laid over
them. A record knows where it stands in its source, so that whatever is wrong with it can be reported by file and line;
a `Tally` counts such findings by reason and remembers the first of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CHAT_ROLES", "Conversation", "Finding", "Tally", "Turn", "checked", "half_pair"]

CHAT_ROLES = ("system", "user", "assistant")
_SHOWN = 3
_LINED = (".jsonl", ".ndjson", ".csv", ".tsv", ".gz")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: "system", "user" or "assistant" of a chat; "prompt", "completion" or "text" outside one.
        content: The text, as the source has it.
    """

    role: str
    content: str


@dataclass(frozen=True)
class Conversation:
    """One conversation with the place that it comes from.

    Attributes:
        turns: The turns, in order.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row, where a source has no lines) in `source`, counted from 1.
        tag: What metrics by group go by (language, task); None for none.
        group: Conversations of one group are never split between training and validation; None: the first question.
    """

    turns: tuple[Turn, ...]
    source: str
    row: int
    tag: str | None = None
    group: str | None = None

    @property
    def where(self) -> str:
        """The place of the row, for messages."""
        return place(self.source, self.row)

    @property
    def key(self) -> str:
        """What decides whether the conversation validates or trains."""
        if self.group is not None:
            return self.group
        return next((turn.content for turn in self.turns if turn.role != "system"), "")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a row.

    Attributes:
        where: Its file and line.
        reason: A short fixed phrase, which findings are counted by.
        detail: What was found and what is needed.
        lost: Whether the conversation is left out; False: it was repaired, which is told all the same.
    """

    where: str
    reason: str
    detail: str
    lost: bool = True


@dataclass
class Tally:
    """How many rows were read, kept, left out and repaired, and why.

    Attributes:
        rows: Rows read.
        kept: Conversations that came out of them.
        counts: Findings by reason, of conversations left out and, under `notes`, of those repaired.
        first: The first three places of each reason.
    """

    rows: int = 0
    kept: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, reason: str, detail: str = "", lost: bool = True) -> None:
        """Counts a finding.

        Args:
            where: file and line.
            reason: a short fixed phrase.
            detail: more about this one.
            lost: whether the conversation is left out.
        """
        counts = self.counts if lost else self.notes
        counts[reason] = counts.get(reason, 0) + 1
        places = self.first.setdefault(reason, [])
        if len(places) < _SHOWN:
            places.append(f"{where}: {detail}" if detail else where)

    @property
    def lost(self) -> int:
        """Conversations left out."""
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """One line per reason, the most frequent first."""
        found = [(count, reason, "left out") for reason, count in self.counts.items()]
        found += [(count, reason, "kept") for reason, count in self.notes.items()]
        return [
            f"{count} {fate}, {reason}: {'; '.join(self.first[reason])}{'; …' if count > _SHOWN else ''}"
            for count, reason, fate in sorted(found, key=lambda item: (item[2] == "kept", -item[0], item[1]))
        ]

    def state(self) -> dict[str, Any]:
        """All of it as what JSON can write."""
        return {"rows": self.rows, "kept": self.kept, "counts": self.counts, "notes": self.notes, "first": self.first}


def place(source: str, row: int) -> str:
    """File and line of a row; "row" where the source has no lines."""
    return f"{source}, {'line' if source.endswith(_LINED) else 'row'} {row}"


def half_pair(text: str) -> int | None:
    r"""Where half a surrogate pair stands, as JSON's "\ud83d" gives one: no tokenizer takes it. None: nowhere.

    Args:
        text: any.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None


def checked(conversation: Conversation) -> Iterator[Conversation | Finding]:
    """The conversation if its turns are in order, without a last question that nobody answered; else what is wrong.

    Args:
        conversation: as read.
    """
    turns, where = conversation.turns, conversation.where
    for number, turn in enumerate(turns, 1):
        found = _wrong_content(turn, number)
        if found is not None:
            yield Finding(where, *found)
            return
    if turns and turns[0].role in ("prompt", "text"):
        yield conversation
        return
    found = _wrong_order([turn.role for turn in turns])
    if found is not None:
        yield Finding(where, *found)
        return
    if turns[-1].role == "user":
        yield Finding(where, "last question unanswered", "the turn is dropped", lost=False)
        conversation = Conversation(
            turns[:-1], conversation.source, conversation.row, conversation.tag, conversation.group
        )
    yield conversation


def _wrong_content(turn: Turn, number: int) -> tuple[str, str] | None:
    # What a file held may be anything, whatever the annotation says.
    content: Any = turn.content
    if not isinstance(content, str):
        return "not a string", f"turn {number} ({turn.role}) holds {_short(content)}; a text is needed"
    if not content.strip() and turn.role not in ("system", "prompt"):
        name = {"assistant": "empty answer", "completion": "empty answer", "user": "empty question"}.get(
            turn.role, "empty text"
        )
        return name, f"turn {number} ({turn.role}) has no text"
    at = half_pair(content)
    return None if at is None else ("broken Unicode", f"turn {number} holds half a surrogate pair at character {at}")


def _wrong_order(roles: list[str]) -> tuple[str, str] | None:
    shown = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")
    for role in roles:
        if role not in CHAT_ROLES:
            return "unknown role", f"role {_short(role)}; allowed are {', '.join(CHAT_ROLES)}"
    if "assistant" not in roles:
        return "no assistant turn", f"the roles are {shown or 'none'}"
    chat = roles[1:] if roles[0] == "system" else roles
    if any(role != ("user", "assistant")[i % 2] for i, role in enumerate(chat)):
        return (
            "roles out of order",
            f"the roles are {shown}; user and assistant must alternate, after at most one system",
        )
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
