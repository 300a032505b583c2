"""Rows that are documents or dialogues, in place of requests.

| reads | from | columns of the rows |
|---|---|---|
| documents | files of rows with `text` [title, id], as Wikipedia dumps have them, or a folder of .txt files | document, title |
| dialogues | conversations in any schema that our datamodules read | dialogue (questions and answers in turn), text, instruction |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fulgurite.data.playground import SCHEMAS, builtin_rows
from fulgurite.data.readers.conversations import CONVERSATION_SCHEMAS, ConversationReader, read_row
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.records.findings import Place, Tally, half_pair
from fulgurite.data.sources.locate import user_sources
from fulgurite.data.sources.tables import rows_of

__all__ = ["Reading", "Wrong", "dialogue_columns", "read_dialogues", "read_documents"]

_COLUMNS = ("text", "title", "id")
_BUILTIN_DOCUMENTS, _PARAGRAPHS = 200, 6  # made of the playground's running text
_ROLES = (("user", "prompt"), ("assistant", "completion"))
_SPLITS = {"train": "train", "val": "validation", "test": "test"}


@dataclass(frozen=True)
class Wrong:
    """A row that is left out: a short fixed phrase, and what was found."""

    reason: str
    detail: str = ""


@dataclass
class Reading:
    """What is read.

    Attributes:
        path: a file or a folder; or builtin.
        split: train, val or test; None takes the only one.
        schema: of conversations; None takes that which the columns fit, and sharegpt of builtin ones.
        columns: the file's column for each of ours that is called otherwise.
        longest: letters of a row at most.
        notes: what was odd about rows that stay: reason and place.
    """

    path: str
    split: str | None = None
    schema: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    longest: int = 100_000
    notes: list[tuple[str, str]] = field(default_factory=list)


Found = Iterator[tuple[str, str, Mapping[str, Any] | Wrong]]  # place, key, columns


def read_documents(given: Reading) -> Found:
    """Documents with what is wrong with them.

    Args:
        given: what to read.
    """
    unknown = sorted(set(given.columns) - set(_COLUMNS))
    if unknown:
        raise ValueError(
            f"synthesize: rows.columns names {unknown[0]!r}; allowed of documents are {', '.join(_COLUMNS)}"
        )
    if given.schema is not None:
        raise ValueError(f"synthesize: rows.schema={given.schema!r} of documents, which have none; leave it out")
    folder = Path(given.path).expanduser()
    if folder.is_dir() and (files := sorted(folder.glob("*.txt"))):
        if given.columns or given.split is not None:
            raise ValueError(
                "synthesize: rows.columns and rows.split say nothing about a folder of .txt files; leave them out"
            )
        for file in files:
            try:
                text: object = file.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                yield str(file), file.stem, Wrong("broken Unicode", f"no UTF-8 at byte {error.start}")
                continue
            yield str(file), file.stem, _document(text, file.stem, given.longest)
        return
    for place, key, raw in _raw(given):
        row = {name: raw.get(given.columns.get(name, name)) for name in _COLUMNS}
        own = key if row["id"] is None else str(row["id"])
        yield str(place), own, _document(row["text"], row["title"], given.longest)


def _raw(given: Reading) -> Iterator[tuple[Place, str, Mapping[str, Any]]]:
    if given.path == "builtin":
        kind = _SPLITS[given.split or "train"]
        if kind == "test":
            raise ValueError(f"synthesize: rows.split={given.split!r} of builtin documents; allowed are train and val")
        texts = [
            row["text"]
            for row in builtin_rows("text", kind, count=3 * _BUILTIN_DOCUMENTS * _PARAGRAPHS)
            if "<|" not in row["text"]  # prose, not a chat
        ]
        for number in range(min(_BUILTIN_DOCUMENTS, len(texts) // _PARAGRAPHS)):
            parts = texts[number * _PARAGRAPHS : (number + 1) * _PARAGRAPHS]
            text = "\n\n".join(parts)
            yield Place("builtin", number + 1), str(number + 1), {"text": text, "title": f"Playground {number + 1}"}
        return
    sources: dict[str, int] = {}
    for place, row in rows_of(given.path, owner="synthesize", split=given.split):
        file = sources.setdefault(place.source, len(sources))
        yield place, f"{file}-{place.row}" if file else str(place.row), row


def _document(text: object, title: object, longest: int) -> Mapping[str, Any] | Wrong:
    if text is None:
        return Wrong("no text", "there is no column 'text'; name it with rows.columns")
    if not isinstance(text, str):
        return Wrong("not a text", f"'text' holds {type(text).__name__}")
    wrong = _wrong(text, longest)
    return wrong or {"document": text, "title": title if isinstance(title, str) else ""}


def _wrong(text: str, longest: int) -> Wrong | None:
    if not text.strip():
        return Wrong("empty text")
    if len(text) > longest:
        return Wrong("too long", f"{len(text)} letters; allowed are {longest}")
    at = half_pair(text)
    if at is not None:
        return Wrong("broken Unicode", f"half a surrogate pair at character {at}")
    at = text.find("\ufffd")
    return None if at < 0 else Wrong("broken Unicode", f"a sign for a broken character at character {at}")


def read_dialogues(given: Reading) -> Found:
    """Dialogues with what is wrong with them; those that are no conversation come last.

    Args:
        given: what to read.
    """
    reader = None
    if given.path == "builtin":
        rows = _builtin_dialogues(given)
    else:
        sources = user_sources(given.path, owner="synthesize", split=given.split)
        reader = ConversationReader(sources, given.schema or "auto", given.columns, "skip")
        rows = iter(reader)
    files: dict[str, int] = {}
    seen: dict[str, int] = {}
    for one in rows:
        file = files.setdefault(one.source, len(files))
        key = f"{file}-{one.row}" if file else str(one.row)
        seen[key] = seen.get(key, 0) + 1  # a row of several conversations
        found = _dialogue(one, given)
        yield one.where, key if seen[key] == 1 else f"{key}-{seen[key]}", found
    tally = Tally() if reader is None else reader.tally
    for reason, number in tally.counts.items():
        for place in [*tally.first[reason], *[""] * number][:number]:
            yield place, "", Wrong(reason)
    for reason, number in tally.notes.items():
        given.notes += [(reason, place) for place in [*tally.first[reason], *[""] * number][:number]]


def _builtin_dialogues(given: Reading) -> Iterator[Conversation]:
    schema = given.schema or "sharegpt"
    if given.columns:
        raise ValueError("synthesize: rows.columns says nothing about builtin dialogues; leave it out")
    if schema not in SCHEMAS or schema not in CONVERSATION_SCHEMAS:
        allowed = ", ".join(name for name in CONVERSATION_SCHEMAS if name in SCHEMAS and name != "text")
        raise ValueError(f"synthesize: rows.schema={schema!r} of builtin dialogues; allowed are {allowed}")
    for number, row in enumerate(builtin_rows(schema, _SPLITS[given.split or "train"]), 1):
        for one in read_row(schema, row, "builtin", number):
            if isinstance(one, Conversation):
                yield one


def _dialogue(one: Conversation, given: Reading) -> Mapping[str, Any] | Wrong:
    turns = [turn for turn in one.turns if turn.role != "system"]
    if len(turns) % 2 or any(turn.role not in _ROLES[n % 2] or turn.extra for n, turn in enumerate(turns)):
        return Wrong("turns that are neither question nor answer", ", ".join(turn.role for turn in turns[:8]))
    if len(turns) < len(one.turns):
        given.notes.append(("a system message is left out: UltraLink's rows have none", one.where))
    texts = [turn.content for turn in turns]
    return _wrong("\n\n".join(texts), given.longest) or dialogue_columns(texts)


def dialogue_columns(texts: Sequence[str]) -> dict[str, Any]:
    """The columns of a dialogue.

    Args:
        texts: questions and answers in turn.
    """
    return {"dialogue": list(texts), "instruction": texts[0], "text": "\n\n".join(texts)}
