"""Conversations: what every reader returns and every encoder takes.

A record of a chat has the roles `system` (first only), `user` and `assistant`, which alternate; between an answer that
calls tools and the next answer stand the tools' results, role `tool`. Text without roles is one turn `text`. A prompt
with its completion is the turns `prompt` and `completion`: no chat template is laid over them. A record knows where it
stands in its source, so that whatever is wrong with it can be reported by file and line; a `Tally` counts such findings
by reason and remembers the first of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from fulgurite.data.records.findings import Finding, half_pair, place

__all__ = ["CHAT_ROLES", "CONTENT_KEYS", "Conversation", "Turn", "checked"]

# What a message or a row may hold beside its text that matters: the template writes it, or the row is left out.
CONTENT_KEYS = (
    "tools", "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking", "documents", "images", "audio",
)  # fmt: skip
CHAT_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Attributes:
        role: "system", "user", "assistant" or "tool" of a chat; "prompt", "completion" or "text" outside one.
        content: The text, as the source has it.
        train: False for an answer that stands in the context only and is not trained on.
        extra: What else the message holds for the chat template (tool_calls, reasoning_content): a JSON object, or None.
    """

    role: str
    content: str
    train: bool = True
    extra: str | None = None

    @property
    def extra_keys(self) -> tuple[str, ...]:
        """The names of what `extra` holds."""
        return () if self.extra is None else tuple(json.loads(self.extra))


@dataclass(frozen=True)
class Conversation:
    """One conversation with the place that it comes from.

    Attributes:
        turns: The turns, in order.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row, where a source has no lines) in `source`, counted from 1.
        tag: What metrics by group go by (language, task); None for none.
        group: Conversations of one group are never split between training and validation; None: the first question.
        tools: What the model may call, for the chat template: a JSON list of functions, None for nothing.
    """

    turns: tuple[Turn, ...]
    source: str
    row: int
    tag: str | None = None
    group: str | None = None
    tools: str | None = None

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
    found = _wrong_order(turns)
    if found is not None:
        yield Finding(where, *found)
        return
    if turns[-1].role != "assistant":
        yield Finding(where, "last question unanswered", "what follows the last answer is dropped", lost=False)
        last = max(i for i, turn in enumerate(turns) if turn.role == "assistant")
        conversation = replace(conversation, turns=turns[: last + 1])
    yield conversation


def _wrong_content(turn: Turn, number: int) -> tuple[str, str] | None:
    # What a file held may be anything, whatever the annotation says.
    content: Any = turn.content
    if not isinstance(content, str):
        return "not a string", f"turn {number} ({turn.role}) holds {_short(content)}; a text is needed"
    if not content.strip() and turn.role not in ("system", "prompt", "tool") and "tool_calls" not in turn.extra_keys:
        name = {"assistant": "empty answer", "completion": "empty answer", "user": "empty question"}.get(
            turn.role, "empty text"
        )
        return name, f"turn {number} ({turn.role}) has no text"
    at = half_pair(content)
    return None if at is None else ("broken Unicode", f"turn {number} holds half a surrogate pair at character {at}")


def _wrong_order(turns: tuple[Turn, ...]) -> tuple[str, str] | None:
    roles = [turn.role for turn in turns]
    shown = ", ".join(roles[:8]) + (", …" if len(roles) > 8 else "")
    for role in roles:
        if role not in CHAT_ROLES:
            return "unknown role", f"role {_short(role)}; allowed are {', '.join(CHAT_ROLES)}"
    if "assistant" not in roles:
        return "no assistant turn", f"the roles are {shown or 'none'}"
    before, called = "assistant", False
    for turn in turns[1:] if roles[0] == "system" else turns:
        allowed = {
            "user": ("assistant",),
            "tool": ("assistant", "tool"),
            "assistant": ("user", "tool") if called else ("user",),
        }
        if turn.role not in allowed[before]:
            return (
                "roles out of order",
                f"the roles are {shown}; user and assistant must alternate, after at most one system; tool may follow an answer "
                "with tool_calls",
            )
        before, called = turn.role, "tool_calls" in turn.extra_keys
    return None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
