"""Rows of text files that hold one row per line: jsonl, csv with a header, tsv with a header.

Text is UTF-8, with or without a byte order mark, and may be compressed by gzip. Only a line feed ends a line: texts may
hold other Unicode line separators. In a csv file fields are quoted as RFC 4180 has it and may hold line feeds; in a tsv
file quotes are literal characters, as in GLUE.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fulgurite.data.sources.json_list import (
    LONGEST,
    not_utf8,
    open_bytes,
    row_object,
    too_long,
    unique_keys,
    unreadable,
    whole_stream,
)

__all__ = ["check_header", "lines_of", "read_csv", "read_jsonl", "read_tsv"]

Row = dict[str, Any]
Numbered = tuple[Row, int]


def lines_of(path: Path) -> Iterator[tuple[str, int]]:
    """The decoded lines of a file with their numbers, from 1; each keeps its line feed.

    Args:
        path: the file.
    """
    offset = 0
    with open_bytes(path) as file, whole_stream(path):
        for number, raw in enumerate(iter(partial(file.readline, LONGEST + 1), b""), 1):
            if len(raw) > LONGEST:
                raise too_long(path, number)
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield line.decode(), number
            except UnicodeDecodeError as error:
                raise not_utf8(path, number, offset + len(raw) - len(line) + error.start, line[error.start]) from error
            offset += len(raw)


def read_jsonl(path: Path) -> Iterator[Numbered]:
    """One object per line; empty lines are skipped.

    Args:
        path: the file.
    """
    for line, number in lines_of(path):
        if not line.strip():
            continue
        try:
            item = json.loads(line, object_pairs_hook=unique_keys)
        except json.JSONDecodeError as error:
            cut = error.pos >= len(line.rstrip()) or "Unterminated" in error.msg
            raise ValueError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno})"
                f"{': it looks cut off' if cut else ''}; each line must hold one whole object"
            ) from error
        except (RecursionError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: JSON that cannot be read ({unreadable(error)}); correct it"
            ) from error
        yield row_object(item, f"{path}, line {number}"), number


def read_csv(path: Path) -> Iterator[Numbered]:
    """A header line, then one row per record, with the number of the line that the record begins in.

    Args:
        path: the file.
    """
    # The limit of 131072 characters per field is the csv module's own and global; texts are longer.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    reader = csv.reader((line for line, _ in lines_of(path)), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {start}: {error}; close the quotes, or double those that belong to the text"
            ) from error
        if not fields:
            continue
        if header is None:
            header = [name.strip() for name in fields]
            check_header(path, header)
        else:
            yield _named(path, header, fields, start), start


def read_tsv(path: Path) -> Iterator[Numbered]:
    """A header line, then one row per line.

    Args:
        path: the file.
    """
    header: list[str] | None = None
    for line, number in lines_of(path):
        if not line.strip():
            continue
        fields = line.removesuffix("\n").removesuffix("\r").split("\t")
        if header is None:
            header = [name.strip() for name in fields]
            check_header(path, header)
        else:
            yield _named(path, header, fields, number), number


def check_header(path: Path, header: Sequence[str]) -> None:
    """Raises a ValueError if two columns have the same name.

    Args:
        path: the file, for the message.
        header: the names of its columns.
    """
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the header names {', '.join(map(repr, twice))} more than once; rename the columns")


def _named(path: Path, header: list[str], fields: list[str], line: int) -> Row:
    if len(fields) != len(header):
        raise ValueError(
            f"{path}, line {line}: {len(fields)} fields were found; the header has {len(header)} "
            f"({', '.join(map(repr, header))}); every line needs as many"
        )
    return dict(zip(header, fields, strict=True))
