"""Rows of the published schemas to conversations.

| schema | columns (optional ones in brackets) | becomes |
|---|---|---|
| ultrafeedback_critique | instruction, completions | a critique per completion, see `critique` |
| ultrachat_200k | prompt, messages [prompt_id] | the messages |
| messages | messages [system, tools] | the messages: lists of {role, content}, see below |
| sharegpt | conversations [system, tools] | lists of {from, value} |
| ultralink | id, data | question, answer, … ; tag: the language, of the file's name or the id |
| ultrachat | id, data | question, answer, … |
| dolly | instruction, context, response | instruction and context; response |
| ultrainteract_sft | instruction, response [task, parent_id] | instruction; response; tag: the task |
| alpaca | instruction, output [input, system, history] | instruction and input; output |
| prompt_completion | prompt, completion | texts without a template, or two lists of messages |
| text | text | one text |

A message may hold more: `weight` (0 or 1) or `train` (true or false) says whether an answer is trained on; tool_calls,
reasoning_content and whatever else it holds, and the row's tools, go to the chat template. What matters and is never written
by the template leaves the row out; other keys are named in the report.

`auto` takes the first schema whose columns are all there. A question at the end of a chat that nobody answered is dropped.
Any other defect of a row leaves the row out and is counted, or stops the reading (`on_bad_row`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fulgurite.data.readers.base import BadRow, Read, RowReader, Schema, records_of
from fulgurite.data.readers.critiques import critique, critique_reader
from fulgurite.data.readers.messages import messages, tools_of, two_systems
from fulgurite.data.records.conversation import Conversation, Turn, checked
from fulgurite.data.records.findings import Finding
from fulgurite.data.sources.formats import Row
from fulgurite.data.sources.locate import RowSource

__all__ = ["CONVERSATION_SCHEMAS", "ConversationReader", "language_of", "read_row"]

_LANGUAGE_KIND = re.compile(r"(?:^|[/\\])([a-z]{2})_(?:code|math|chat_agnostic|chat_specific|chat)(?![a-z])")


def _pairs(data: object) -> tuple[Turn, ...]:
    """Questions and answers in turn."""
    if not isinstance(data, list):
        raise BadRow("not a list", f"column 'data' holds {type(data).__name__}; a list of texts is needed")
    return tuple(Turn(("user", "assistant")[i % 2], text) for i, text in enumerate(data))


def _system(row: Row) -> tuple[Turn, ...]:
    return (Turn("system", row["system"]),) if row.get("system") else ()


def _joined(*parts: object) -> Any:
    """Instruction and input, one empty line between; whatever is no string goes through, to be found later."""
    given = [part for part in parts if part is not None and part != ""]
    bad = next((part for part in given if not isinstance(part, str)), None)
    return bad if bad is not None else "\n\n".join(part for part in given if isinstance(part, str))


def _ultrainteract(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    turns = (Turn("user", row["instruction"]), Turn("assistant", row["response"]))
    yield Conversation(turns, source, number, _text_or_none(row.get("task")), _text_or_none(row.get("parent_id")))


def _ultrachat(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    yield Conversation(_pairs(row["data"]), source, number)


def _ultralink(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    yield Conversation(_pairs(row["data"]), source, number, language_of(source, row["id"]))


def _chat(column: str) -> Read[Conversation]:
    def read(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
        turns = messages(row[column], column)
        system = _system(row)
        if turns and turns[0].role == "system":
            if system and system[0].content != turns[0].content:
                yield two_systems(source, number)
            system = ()
        yield Conversation(system + turns, source, number, tools=tools_of(row.get("tools")))

    return read


def _alpaca(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    history: list[Turn] = []
    given = row.get("history") or ()
    for pair in given if isinstance(given, Sequence) and not isinstance(given, str) else (given,):
        if not isinstance(pair, Sequence) or isinstance(pair, str) or len(pair) != 2:
            raise BadRow("not a list", f"'history' holds {pair!r:.60}; pairs of question and answer are needed")
        history += [Turn("user", pair[0]), Turn("assistant", pair[1])]
    question = Turn("user", _joined(row["instruction"], row.get("input")))
    yield Conversation((*_system(row), *history, question, Turn("assistant", row["output"])), source, number)


def _dolly(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    question = Turn("user", _joined(row["instruction"], row["context"]))
    yield Conversation((question, Turn("assistant", row["response"])), source, number)


def _prompt_completion(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = messages(prompt, "prompt") + messages(completion, "completion")
    elif isinstance(prompt, list) or isinstance(completion, list):
        raise BadRow("not a string", "prompt and completion must both be texts, or both lists of messages")
    else:
        turns = (Turn("prompt", prompt), Turn("completion", completion))
    yield Conversation(turns, source, number)


def _plain(row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    yield Conversation((Turn("text", row["text"]),), source, number)


_SCHEMAS: dict[str, Schema[Conversation]] = {
    "ultrafeedback_critique": Schema(("instruction", "completions"), (), critique),
    "ultrachat_200k": Schema(("prompt", "messages"), ("prompt_id", "system", "tools"), _chat("messages")),
    "messages": Schema(("messages",), ("system", "tools"), _chat("messages")),
    "sharegpt": Schema(("conversations",), ("system", "tools"), _chat("conversations")),
    "ultralink": Schema(("id", "data"), (), _ultralink, lambda name, row: language_of(name, row.get("id")) is not None),
    "ultrachat": Schema(("id", "data"), (), _ultrachat),
    "dolly": Schema(("instruction", "context", "response"), (), _dolly),
    "ultrainteract_sft": Schema(("instruction", "response"), ("task", "parent_id"), _ultrainteract),
    "alpaca": Schema(("instruction", "output"), ("input", "system", "history"), _alpaca),
    "prompt_completion": Schema(("prompt", "completion"), (), _prompt_completion),
    "text": Schema(("text",), (), _plain, weak=True),
}
CONVERSATION_SCHEMAS = tuple(_SCHEMAS)


def read_row(schema: str, row: Row, source: str, number: int) -> Iterator[Conversation | Finding]:
    """The conversations of one row, checked, and what is wrong with them.

    Args:
        schema: one of `CONVERSATION_SCHEMAS`.
        row: columns by name.
        source: where the row is from, for messages.
        number: its line.
    """
    return records_of(_SCHEMAS[schema], row, source, number, checked)


class ConversationReader(RowReader[Conversation]):
    """Reads sources one after the other, as one stream of conversations.

    After a reading `tally` holds what was found, and `schemas` the schema of each source by its name.

    Args:
        sources: what to read.
        schema: one of `CONVERSATION_SCHEMAS`, or "auto" to guess it from the columns of each source.
        columns: the source's column for columns of the schema that are called otherwise there.
        on_bad_row: rows that are no conversation are counted and left out ("skip"),
            as long as they are at most a tenth of all ("few"), or the first one stops the reading ("error").
        tags: keep conversations of these tags only.
        tag_sources: give conversations without a tag of their own the name of their source.
        critique_prompt: the request of ultrafeedback_critique, with {instruction} and {answer}; None takes our wording.
        own_tags: keep the tags that schemas give; False leaves all to `tag_sources`.
    """

    noun = "conversation"
    table = _SCHEMAS

    def __init__(
        self,
        sources: Sequence[RowSource],
        schema: str = "auto",
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "skip",
        tags: Sequence[str] | None = None,
        tag_sources: bool = False,
        critique_prompt: str | None = None,
        own_tags: bool = True,
    ) -> None:
        if critique_prompt is not None:
            judged = replace(_SCHEMAS["ultrafeedback_critique"], read=critique_reader(critique_prompt))
            self.table = {**_SCHEMAS, "ultrafeedback_critique": judged}
        super().__init__(sources, schema, columns, on_bad_row, tags, tag_sources)
        self.own_tags = own_tags

    def _checked(self, item: Conversation) -> Iterator[Conversation | Finding]:
        return checked(item if self.own_tags else replace(item, tag=None))


def language_of(*texts: object) -> str | None:
    """The language in the first of some names or ids that look like UltraLink's (fr_math.jsonl, zh_chat_specific_7)."""
    for text in texts:
        match = _LANGUAGE_KIND.search(text) if isinstance(text, str) else None
        if match:
            return match.group(1)
    return None


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
