"""Writes the rows of conversations into the cache, in one reading of their sources; and what such a file tells about them."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import Protocol

import torch

from fulgurite.data.records.conversation import Conversation
from fulgurite.data.records.findings import Tally
from fulgurite.data.rows.encoded import SelectedRows
from fulgurite.data.rows.store import EncodedRow, MappedRows, TokenWriter
from fulgurite.data.sampling.splits import chosen_records

__all__ = ["Encode", "file_of", "key_hash", "selected", "tags_of", "tally_of", "write_conversations"]

_CHUNK = 1000


class Omitted(Protocol):
    """What stands in the place of a row that was left out: where it was, and a short fixed phrase."""

    @property
    def where(self) -> str: ...

    @property
    def reason(self) -> str: ...


# The rows of each conversation of a chunk, or why it has none.
Encode = Callable[[Sequence[Conversation]], "Sequence[Sequence[EncodedRow | Omitted]]"]


def write_conversations(
    writer: TokenWriter,
    conversations: Iterable[Conversation],
    encode: Encode,
    tally: Callable[[], Tally],
    progress: Callable[[Iterable[Conversation]], Iterable[Conversation]] = lambda items: items,
) -> Tally:
    """Encodes conversations in chunks of 1000 and writes their rows.

    Args:
        writer: where to, open and empty.
        conversations: read once.
        encode: the rows of each conversation of a chunk.
        tally: the counts of the reading, once it has ended; what the encoder left out is added to them.
        progress: wraps the conversations, to show how far it is.
    """
    omitted = Tally()
    with _quick_collections():
        _write_chunks(writer, iter(progress(conversations)), encode, omitted)
    total = tally()
    total.merge(omitted)
    total.kept = writer.rows
    return total


def _write_chunks(writer: TokenWriter, items: Iterator[Conversation], encode: Encode, omitted: Tally) -> None:
    while chunk := list(islice(items, _CHUNK)):
        rows: list[tuple[EncodedRow, str | None]] = []
        records: list[int] = []
        first = writer.add_records([key_hash(conversation.key) for conversation in chunk])
        for record, (conversation, found) in enumerate(zip(chunk, encode(chunk), strict=True), first):
            for row in found:
                if not isinstance(row, tuple):
                    omitted.add(row.where, row.reason)
                    continue
                rows.append((row, conversation.tag))
                records.append(record)
                if row[3]:
                    omitted.add(conversation.where, row[3], lost=False)
        writer.add(rows, records)


@contextmanager
def _quick_collections() -> Iterator[None]:
    """Within the block the garbage collector leaves out what was there before, such as half a million objects of libraries: going
    through them again and again took a tenth of the time."""
    ours = gc.get_freeze_count() == 0  # else somebody has frozen objects, who may want them to stay frozen
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def key_hash(key: str) -> int:
    """63 bits of a record's key, the same in every run.

    Args:
        key: of a record.
    """
    return int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little") >> 1


def selected(
    rows: MappedRows, part: str, val_fraction: float, limit: int | None = None, seed: int = 0
) -> MappedRows | SelectedRows:
    """The rows of one part of the records, and of at most `limit` of these.

    Args:
        rows: of a file that `write_conversations` made.
        part: "all"; "held out" for validation; or "train", what is left for training.
        val_fraction: share of the records that is held out.
        limit: take that many random records only, of those that have rows.
        seed: decides which.
    """
    if part == "all" and limit is None:
        return rows
    record = rows.record.long()
    usable = torch.zeros(len(rows.groups), dtype=torch.bool)
    usable[record] = True
    keep = chosen_records(rows.groups, part, val_fraction, limit, seed, usable)
    return SelectedRows(rows, keep[record].nonzero().squeeze(1))


def file_of(rows: MappedRows | SelectedRows) -> MappedRows:
    """The file that rows, or a selection of them, are from.

    Args:
        rows: of `selected`.
    """
    found = rows.encoded if isinstance(rows, SelectedRows) else rows
    assert isinstance(found, MappedRows)
    return found


def tally_of(rows: MappedRows) -> Tally:
    """What was counted when the rows were made.

    Args:
        rows: of a file that `write_conversations` and `finish` made.
    """
    return Tally(**json.loads(rows.metadata["tally"]))


def tags_of(rows: MappedRows) -> list[str]:
    """The names of the rows' tags, by number.

    Args:
        rows: of a file.
    """
    names: list[str] = json.loads(rows.metadata["tag_names"])
    return names
