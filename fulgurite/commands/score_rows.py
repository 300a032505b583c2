"""Rows that `fulgurite score` reads: conversations, pairs, and prompts with one or several answers."""

from dataclasses import dataclass
from typing import Any

from fulgurite.data.conversations import Turn
from fulgurite.data.row_reader import BadRow, messages

__all__ = ["ADDED", "HASH", "Asked", "answered", "read_asked", "turns_before"]

Row = dict[str, Any]
HASH = "score_hash"
ADDED = ("reward", "rewards", "reward_chosen", "reward_rejected", "answer_tokens", HASH)


@dataclass
class Asked:
    """A row with the conversations that it holds.

    Attributes:
        row: As it was read.
        kind: "conversation", "pair" or "completions".
        conversations: Turns of each answer with what stands before it.
    """

    row: Row
    kind: str
    conversations: list[tuple[Turn, ...]]


def read_asked(row: Row, where: str, as_chat: bool) -> Asked:
    """The conversations of a row, by its columns.

    Args:
        row: as it was read.
        where: its place, for messages.
        as_chat: texts are turns of a chat, not joined as they are.
    """
    taken = [name for name in ADDED if name in row]
    if taken:
        raise ValueError(f"{where}: a column {taken[0]!r} is there already, which the rewards would replace; rename it")
    try:
        if row.get("messages") is not None:
            turns = messages(row["messages"], "messages")
            if len(turns) < 2 or turns[-1].role != "assistant":
                raise BadRow("no answer", "'messages' must end with a message of the assistant")
            return Asked(row, "conversation", [turns])
        if row.get("chosen") is not None and row.get("rejected") is not None:
            before = () if row.get("prompt") is None else turns_before(row["prompt"], where, as_chat)
            return Asked(row, "pair", [answered(before, row[side]) for side in ("chosen", "rejected")])
        if row.get("prompt") is not None and row.get("completions") is not None:
            before = turns_before(row["prompt"], where, as_chat)
            return Asked(row, "completions", [answered(before, answer) for answer in row["completions"]])
        if row.get("prompt") is not None and row.get("completion") is not None:
            return Asked(
                row, "conversation", [answered(turns_before(row["prompt"], where, as_chat), row["completion"])]
            )
    except BadRow as error:
        raise ValueError(f"{where}: {error.reason}: {error.detail}; correct the row") from error
    raise ValueError(
        f"{where}: columns {', '.join(map(repr, row)) or 'none'}; needed are messages; or prompt with completion, completions, or "
        "chosen and rejected"
    )


def turns_before(prompt: object, where: str, as_chat: bool) -> tuple[Turn, ...]:
    """The turns before an answer.

    Args:
        prompt: a text, or messages.
        where: the row's place, for messages.
        as_chat: a text is a user's turn.
    """
    if isinstance(prompt, str):
        return (Turn("user" if as_chat else "prompt", prompt),)
    try:
        return messages(prompt, "prompt")
    except BadRow as error:
        raise ValueError(f"{where}: {error.reason}: {error.detail}; correct the row") from error


def answered(before: tuple[Turn, ...], answer: object) -> tuple[Turn, ...]:
    """The turns with their answer.

    Args:
        before: the turns before it.
        answer: a text, or messages, which may hold the prompt again.
    """
    if isinstance(answer, list):  # messages, which may hold the prompt again
        turns = messages(answer, "answer")
        if not turns or turns[-1].role != "assistant":
            raise BadRow("no answer", "an answer given as messages must end with one of the assistant")
        return turns if turns[: len(before)] == before else (*before, *turns)
    if not isinstance(answer, str):
        raise BadRow("not an answer", f"an answer is {type(answer).__name__}; a text or messages are needed")
    if not before:
        raise BadRow("no prompt", "answers that are texts need a column 'prompt'")
    return (*before, Turn("completion" if before[0].role == "prompt" else "assistant", answer))
