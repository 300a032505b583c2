"""Rows of published data sets to prompts with what their answers are judged by.

| schema | columns (optional ones in brackets) | becomes |
|---|---|---|
| gsm8k | question, answer | the question; `answer` ends with `#### NUMBER` |
| mbpp | test_list [text, prompt] | the task with its asserts |
| ultrafeedback | instruction, completions | the instruction |
| messages | messages | the messages up to the last question |
| prompts | prompt | a text, which the user asks, or a list of messages |

The whole row is kept as the reference: a checker of `fulgurite evaluate` (the reward "gsm8k", "mbpp" and so on) reads its own
columns from it. A question is asked as the user's turn of a chat; `as_chat=False` gives it to the model as a bare text.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fulgurite.data.readers.base import BadRow, RowReader, Schema
from fulgurite.data.readers.messages import messages
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Finding
from fulgurite.data.records.prompts import AskedPrompt, checked_prompt
from fulgurite.data.sources.formats import Row

__all__ = ["PROMPT_SCHEMAS", "PromptReader"]

_Read = Callable[[Row], tuple[tuple[Turn, ...], str]]


def _text(row: Row, column: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise BadRow("empty prompt", f"column {column!r} holds {str(value)[:40]!r}; a text is needed")
    return value


def _gsm8k(row: Row) -> tuple[tuple[Turn, ...], str]:
    answer = row["answer"]
    if not isinstance(answer, str) or "####" not in answer:
        raise BadRow("no right answer", f"'answer' ends with no '#### NUMBER': {str(answer)[-40:]!r}")
    return (Turn("user", _text(row, "question")),), answer


def _mbpp(row: Row) -> tuple[tuple[Turn, ...], str]:
    tests = row["test_list"]
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise BadRow("no tests", f"'test_list' holds {str(tests)[:40]!r}; a list of asserts is needed")
    task = _text(row, "text" if row.get("text") else "prompt").strip() if row.get("text") or row.get("prompt") else ""
    if not task:
        raise BadRow("empty prompt", "neither 'text' nor 'prompt' holds the task")
    asserts = "\n".join(tests)
    question = (
        f"{task} Your code should pass these tests:\n\n{asserts}\n\nAnswer with the whole program in one block of code."
    )
    return (Turn("user", question),), str(row.get("code") or "")


def _messages(row: Row) -> tuple[tuple[Turn, ...], str]:
    turns = messages(row["messages"], "messages")
    last = max((i for i, turn in enumerate(turns) if turn.role == "user"), default=-1)
    behind = turns[last + 1].content if last + 1 < len(turns) else ""
    return turns[: last + 1], behind


def _prompts(row: Row) -> tuple[tuple[Turn, ...], str]:
    given = row["prompt"]
    answer = row.get("answer")
    turns = messages(given, "prompt") if isinstance(given, list) else (Turn("user", _text(row, "prompt")),)
    return turns, answer if isinstance(answer, str) else ""


def _schema(needed: Sequence[str], read: _Read, optional: Sequence[str] = (), **more: Any) -> Schema[AskedPrompt]:
    def one(row: Row, source: str, number: int) -> Iterator[AskedPrompt | Finding]:
        turns, answer = read(row)
        reference = json.dumps(row, ensure_ascii=False, default=str)
        yield AskedPrompt(turns, reference, source, number, answer)

    return Schema(tuple(needed), tuple(optional), one, **more)


PROMPT_SCHEMAS: dict[str, Schema[AskedPrompt]] = {
    "mbpp": _schema(["test_list"], _mbpp, ["text", "prompt"]),
    "ultrafeedback": _schema(
        ["instruction", "completions"], lambda row: ((Turn("user", _text(row, "instruction")),), "")
    ),
    "gsm8k": _schema(["question", "answer"], _gsm8k, looks=lambda name, row: "####" in str(row["answer"])),
    "prompts": _schema(["prompt"], _prompts, ["answer"]),
    "messages": _schema(["messages"], _messages),
}


class PromptReader(RowReader[AskedPrompt]):
    """Reads prompts; see the table of the module.

    Args:
        as_chat: ask questions as the user's turn of a chat; False gives them to the model as bare texts.
        options: of `RowReader`.
    """

    noun = "prompt"
    table = PROMPT_SCHEMAS

    def __init__(self, *sources: Any, as_chat: bool = True, **options: Any) -> None:
        super().__init__(*sources, **options)
        self.as_chat = as_chat

    def _checked(self, item: AskedPrompt) -> Iterator[AskedPrompt | Finding]:
        if not self.as_chat:
            if len(item.turns) != 1:
                detail = f"{len(item.turns)} turns; a bare text has one; take --data.as_chat true"
                yield Finding(item.where, "a chat where texts are wanted", detail)
                return
            item = replace(item, turns=(replace(item.turns[0], role="prompt"),))
        yield from checked_prompt(item)

    def _tell_unread(self, schema: str, found: Sequence[str], name: str, rows: Sequence[Row]) -> None:
        """Nothing is left out: the whole row is the reference."""
