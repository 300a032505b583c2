"""Conversations: what every reader returns and every encoder takes.

A record of a chat has the roles `system` (first only), `user` and `assistant`, which alternate. Text without roles is
one turn `text`. A prompt with its completion is the turns `prompt` and `completion`: no chat template is laid over
them. A record knows where it stands in its source, so that whatever is wrong with it can be reported by file and line;
a `Tally` counts such findings by reason and remembers the first of each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fulgurite.data.records.findings import Finding, half_pair, place

__all__ = ["CHAT_ROLES", "Conversation", "Turn", "checked"]

CHAT_ROLES = ("system", "user", "assistant")


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
