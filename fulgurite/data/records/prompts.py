"""Prompts to be answered: what every reader of prompts returns. What an answer is judged by is the whole row, as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fulgurite.data.records.conversation import CHAT_ROLES, Turn
from fulgurite.data.records.findings import Finding, half_pair, place

__all__ = ["AskedPrompt", "checked_prompt"]


@dataclass(frozen=True)
class AskedPrompt:
    """One prompt with the place that it comes from.

    Attributes:
        turns: The history, its last turn the user's; or one turn "prompt", over which no template is laid.
        reference: The row as JSON, for whatever judges the answers.
        source: File (or name of the data set) that the row was read from.
        row: Number of its line (or row, where a source has no lines) in `source`, counted from 1.
        answer: A right or known answer, to be shown beside the model's; "" for none.
        tag: What prompts may be chosen by; None for none.
    """

    turns: tuple[Turn, ...]
    reference: str
    source: str
    row: int
    answer: str = ""
    tag: str | None = None

    @property
    def where(self) -> str:
        """The place of the row, for messages."""
        return place(self.source, self.row)

    @property
    def key(self) -> str:
        """What decides whether the prompt validates or trains: its first question."""
        return next((turn.content for turn in self.turns if turn.role != "system"), "")


def checked_prompt(prompt: AskedPrompt) -> Iterator[AskedPrompt | Finding]:
    """The prompt if something is asked in it, in the roles of a chat; else what is wrong.

    Args:
        prompt: as read.
    """
    where = prompt.where
    for number, turn in enumerate(prompt.turns, 1):
        content: Any = turn.content  # a file may hold anything
        if not isinstance(content, str) or (turn.role != "system" and not content.strip()):
            yield Finding(where, "empty prompt", f"turn {number} ({turn.role}) has no text")
            return
        if half_pair(content) is not None:
            yield Finding(where, "broken Unicode", f"turn {number} holds half a surrogate pair")
            return
    roles = [turn.role for turn in prompt.turns]
    if roles == ["prompt"]:
        yield prompt
        return
    wrong = [role for role in roles if role not in CHAT_ROLES]
    if wrong or not roles or roles[-1] != "user":
        detail = f"the roles are {', '.join(map(str, roles)) or 'none'}; the last turn must be the user's"
        yield Finding(where, "no question at the end", detail)
        return
    yield prompt
