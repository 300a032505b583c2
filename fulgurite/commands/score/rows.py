"""Rows that `fulgurite score` reads: conversations, pairs, and prompts with one or several answers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fulgurite.data.readers.base import BadRow
from fulgurite.data.readers.messages import messages, tools_of
from fulgurite.data.records.conversation import Conversation, Turn, checked
from fulgurite.data.records.findings import Finding, place

__all__ = ["ADDED", "HASH", "Asked", "read_asked", "read_item"]

Row = dict[str, Any]
HASH = "score_hash"
ADDED = ("reward", "rewards", "reward_chosen", "reward_rejected", "answer_tokens", HASH)


@dataclass
class Asked:
    """A row with the conversations that it holds.

    Attributes:
        row: As it was read.
        kind: "conversation", "pair" or "completions".
        conversations: Each answer with what stands before it.
    """

    row: Row
    kind: str
    conversations: list[Conversation]


def read_asked(row: Row, source: str, number: int, as_chat: bool) -> Asked:
    """The conversations of a row, by its columns.

    Args:
        row: as it was read.
        source: the file that it stands in.
        number: of its line, or of the row where the file has no lines.
        as_chat: texts are turns of a chat, not joined as they are.
    """
    where = place(source, number)
    taken = [name for name in ADDED if name in row]
    if taken:
        raise ValueError(f"{where}: a column {taken[0]!r} is there already, which the rewards would replace; rename it")
    try:
        found = _by_columns(row, as_chat)
        if found is not None:
            kind, answers = found
            tools, system = tools_of(row.get("tools")), _system(row)
            if system and any(turns[0].role == "system" and turns[0] != system[0] for turns in answers):
                raise BadRow(
                    "two systems", "the column 'system' and the first turn say different things; one is needed"
                )
            given = [turns if turns[0].role in ("system", "prompt") else (*system, *turns) for turns in answers]
            return Asked(row, kind, [_conversation(turns, source, number, tools) for turns in given])
    except BadRow as error:
        raise ValueError(f"{where}: {error.reason}: {error.detail}; correct the row") from error
    filled = ", ".join(repr(name) for name, value in row.items() if value is not None) or "none"
    empty = ", ".join(repr(name) for name, value in row.items() if value is None)
    raise ValueError(
        f"{where}: columns {filled}{f', and nothing in {empty}' if empty else ''}; needed are messages; or prompt with completion, "
        "completions, or chosen and rejected; correct the row"
    )


def read_item(row: Row, prompt: object, answers: Sequence[object], source: str, number: int, as_chat: bool) -> Asked:
    """The conversations of a benchmark's item.

    Args:
        row: as it was read.
        prompt: of the item, a text or messages.
        answers: of the item.
        source: the file that it stands in.
        number: of its line or row.
        as_chat: texts are turns of a chat, not joined as they are.
    """
    try:
        before = _turns_before(prompt, as_chat)
        found = [_conversation(_answered(before, answer), source, number) for answer in answers]
    except BadRow as error:
        raise ValueError(f"{place(source, number)}: {error.reason}: {error.detail}; correct the row") from error
    return Asked(row, "completions", found)


def _by_columns(row: Row, as_chat: bool) -> tuple[str, list[tuple[Turn, ...]]] | None:
    """The kind of a row and the turns of each answer; None where its columns are no kind's."""
    prompt = row.get("prompt")
    pair = row.get("chosen") is not None and row.get("rejected") is not None
    kinds = [name for name in ("messages", "completions", "completion") if row.get(name) is not None]
    if pair and kinds == ["messages"] and row["messages"] == row["chosen"]:
        kinds = []  # ultrafeedback_binarized repeats the better dialogue as messages
    kinds += ["chosen"] if pair else []
    if len(kinds) > 1:
        raise BadRow(
            "answers of two kinds", f"the columns {' and '.join(map(repr, kinds))} hold answers; one of them is scored"
        )
    if kinds[:1] == ["messages"]:
        turns = messages(row["messages"], "messages")
        if len(turns) < 2 or turns[-1].role != "assistant":
            raise BadRow("no answer", "'messages' must end with a message of the assistant")
        return "conversation", [turns]
    if pair:
        before = () if prompt is None else _turns_before(prompt, as_chat)
        return "pair", [_answered(before, row[side]) for side in ("chosen", "rejected")]
    if prompt is not None and row.get("completions") is not None:
        several = row["completions"]
        if not isinstance(several, list) or not several:
            held = "an empty list" if several == [] else type(several).__name__
            raise BadRow("no answers", f"'completions' holds {held}; a list of one answer at least is needed")
        before = _turns_before(prompt, as_chat)
        return "completions", [_answered(before, answer) for answer in several]
    if prompt is not None and row.get("completion") is not None:
        return "conversation", [_answered(_turns_before(prompt, as_chat), row["completion"])]
    return None


def _system(row: Row) -> tuple[Turn, ...]:
    """The turn that a column 'system' puts before a chat, as in training."""
    given = row.get("system")
    if given and not isinstance(given, str):
        raise BadRow("not a string", f"'system' holds {repr(given)[:60]}; a text is needed")
    return (Turn("system", given),) if given else ()


def _turns_before(prompt: object, as_chat: bool) -> tuple[Turn, ...]:
    """The turns before an answer, of a text or of messages."""
    return (Turn("user" if as_chat else "prompt", prompt),) if isinstance(prompt, str) else messages(prompt, "prompt")


def _conversation(turns: tuple[Turn, ...], source: str, number: int, tools: str | None = None) -> Conversation:
    """The turns with their place; a BadRow for what no training would take, but an empty answer has its reward too."""
    last = turns[-1]
    empty = isinstance(last.content, str) and not last.content.strip()
    shown = (*turns[:-1], replace(last, content=".")) if empty else turns
    for finding in checked(Conversation(shown, source, number)):
        if isinstance(finding, Finding):
            raise BadRow(finding.reason, finding.detail)
    return Conversation(turns, source, number, tools=tools)


def _answered(before: tuple[Turn, ...], answer: object) -> tuple[Turn, ...]:
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
