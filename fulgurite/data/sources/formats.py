"""Rows of files of any size, one after the other, with errors that name file, line and byte.

| ending | content | in memory at a time |
|---|---|---|
| .jsonl, .ndjson | one object per line; empty lines are skipped | a line |
| .json | a list of objects (an object around the list is read whole) | about a mebibyte, or the longest object |
| .csv, .tsv | a header line, then rows, quoted as `fulgurite.data.sources.tables` has it | a row |
| .parquet | any table | a row group |

Text is UTF-8, with or without a byte order mark, and may be compressed (`.jsonl.gz` and so on). A file that was cut
off, is damaged or is not UTF-8 is an error: unlike a bad row, it says that the file is not what was published.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fulgurite.data.sources.json_list import not_utf8, open_bytes, read_json, row_object, unreadable, whole_stream

__all__ = ["is_row_file", "stream_rows"]

Row = dict[str, Any]
Numbered = tuple[Row, int]

BLOCK = 1 << 20
_PARQUET_ROWS = 256


def stream_rows(path: str | Path) -> Iterator[Numbered]:
    """The rows of a file with the number of their line, or of the row where a file has no lines, from 1.

    Args:
        path: a file of a known ending.
    """
    path = Path(path)
    reader = _READERS[format_ending(path)]
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        hint = f"did you mean {str(path.parent / near[0])!r}?" if near else "check the path"
        raise FileNotFoundError(f"{path}: no such file; {hint}")
    empty = True
    for row in reader(path):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path}: the file has no row; at least one is needed")


def stem_of(path: Path) -> str:
    """The name in lower case without the endings that are known: `chats.test` of chats.test.jsonl.gz."""
    return path.name.lower().removesuffix(".gz").removesuffix(_suffix(path))


def is_row_file(path: Path) -> bool:
    """Whether the name ends as a file of rows does.

    Args:
        path: which need not exist.
    """
    return _suffix(path) in _READERS


def _suffix(path: Path) -> str:
    return Path(path.name.lower().removesuffix(".gz")).suffix


def format_ending(path: Path) -> str:
    suffix = _suffix(path)
    if suffix not in _READERS:
        allowed = ", ".join(_READERS)
        raise ValueError(
            f"{path}: ending {path.suffix!r} is not known; allowed are {allowed}, those of text also with .gz"
        )
    return suffix


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    """Decoded lines with their numbers; only a line feed ends one (texts may hold other Unicode separators)."""
    offset = 0
    with open_bytes(path) as file, whole_stream(path):
        for number, raw in enumerate(file, 1):
            line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
            try:
                yield line.decode(), number
            except UnicodeDecodeError as error:
                raise not_utf8(path, number, offset + len(raw) - len(line) + error.start, line[error.start]) from error
            offset += len(raw)


def _read_jsonl(path: Path) -> Iterator[Numbered]:
    for line, number in _lines(path):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
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


def _read_csv(path: Path) -> Iterator[Numbered]:
    # The limit of 131072 characters per field is the csv module's own and global; texts are longer.
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))
    reader = csv.reader((line for line, _ in _lines(path)), strict=True)
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
            header = _header(path, fields)
        else:
            yield _named(path, header, fields, start), start


def _read_tsv(path: Path) -> Iterator[Numbered]:
    header: list[str] | None = None
    for line, number in _lines(path):
        if not line.strip():
            continue
        fields = line.removesuffix("\n").removesuffix("\r").split("\t")
        if header is None:
            header = _header(path, fields)
        else:
            yield _named(path, header, fields, number), number


def _header(path: Path, fields: list[str]) -> list[str]:
    header = [name.strip() for name in fields]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the header names {', '.join(map(repr, twice))} more than once; rename the columns")
    return header


def _named(path: Path, header: list[str], fields: list[str], line: int) -> Row:
    if len(fields) != len(header):
        raise ValueError(
            f"{path}, line {line}: {len(fields)} fields were found; the header has {len(header)} "
            f"({', '.join(map(repr, header))}); every line needs as many"
        )
    return dict(zip(header, fields, strict=True))


def _read_parquet(path: Path) -> Iterator[Numbered]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow; pip install pyarrow") from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield row, number
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole parquet file ({error}); write or download it again") from error


_READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
