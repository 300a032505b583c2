"""Rows of files of any size, one after the other, with errors that name file, line and byte.

| ending | content | in memory at a time |
|---|---|---|
| .jsonl, .ndjson | one object per line; empty lines are skipped | a line |
| .json | a list of objects (an object around the list is read whole) | about a mebibyte, or the longest object |
| .csv, .tsv | a header line, then rows, quoted as `fulgurite.data.files` has it | a row |
| .parquet | any table | a row group |

Text is UTF-8, with or without a byte order mark, and may be compressed (`.jsonl.gz` and so on). A file that was cut
off, is damaged or is not UTF-8 is an error: unlike a bad row, it says that the file is not what was published.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fulgurite.data.streaming_json import not_utf8, open_bytes, read_json, row_object, unreadable, whole_stream

__all__ = ["RowSource", "file_source", "is_row_file", "list_source", "split_files", "stream_rows"]

Row = dict[str, Any]
Numbered = tuple[Row, int]

_BLOCK = 1 << 20
_PARQUET_ROWS = 256
_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val",
    "test": "test",
}  # fmt: skip
_USE_WORDS = {"sft": {"sft"}, "prefs": {"prefs", "pair"}}
_NO_ROWS = {"dataset_info", "dataset_infos", "dataset_dict", "state", "config", "tokenizer", "tokenizer_config"}


@dataclass(frozen=True)
class RowSource:
    """Rows that can be read again and again.

    Attributes:
        name: File, or name of the data set, for messages.
        rows: Starts a reading: yields rows and their numbers, from 1.
        fingerprint: Changes whenever the rows would.
        group: What several sources are together, such as the parts of one folder; the tag of rows without one.
    """

    name: str
    rows: Callable[[], Iterator[Numbered]]
    fingerprint: Callable[[], str]
    group: str = ""


def file_source(path: str | Path) -> RowSource:
    """The rows of one file.

    Args:
        path: a file of a known ending.
    """
    file = Path(path)
    _ending(file)
    return RowSource(str(file), lambda: stream_rows(file), lambda: _sha256(file))


def list_source(name: str, rows: list[Row]) -> RowSource:
    """Rows that are in memory.

    Args:
        name: what messages call them.
        rows: the rows; what JSON can write.
    """

    def fingerprint() -> str:
        digest = hashlib.sha256()
        for row in rows:
            digest.update(json.dumps(row, sort_keys=True).encode() + b"\n")
        return digest.hexdigest()

    return RowSource(name, lambda: ((row, number) for number, row in enumerate(rows, 1)), fingerprint)


def split_files(folder: Path, split: str, use: str = "sft") -> list[Path]:
    """The files of "train", "val" or "test" in a folder (or in its folder `data`), by a word in their names, sorted.

    Files that name no split are training rows, also beside others that say so; hidden files are none. Where some are for
    the use at hand (`train_sft-…`, `0000_sft.parquet`; `train_prefs-…`, `0000_pair.parquet`) only those count.

    Args:
        folder: the folder.
        split: which.
        use: "sft" or "prefs".
    """
    files = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and is_row_file(path) and not path.name.startswith(".") and _stem(path) not in _NO_ROWS
    ]
    if not files and (folder / "data").is_dir():
        return split_files(folder / "data", split, use)
    words = {path: re.split(r"[^a-z0-9]+", _stem(path)) for path in files}
    if any(_USE_WORDS[use] & set(found) for found in words.values()):
        files = [path for path in files if _USE_WORDS[use] & set(words[path])]
    named = {path: next((_SPLIT_WORDS[w] for w in words[path] if w in _SPLIT_WORDS), "train") for path in files}
    return [path for path in files if named[path] == split]


def stream_rows(path: str | Path) -> Iterator[Numbered]:
    """The rows of a file with the number of their line, or of the row where a file has no lines, from 1.

    Args:
        path: a file of a known ending.
    """
    path = Path(path)
    reader = _READERS[_ending(path)]
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


def _stem(path: Path) -> str:
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


def _ending(path: Path) -> str:
    suffix = _suffix(path)
    if suffix not in _READERS:
        allowed = ", ".join(_READERS)
        raise ValueError(
            f"{path}: ending {path.suffix!r} is not known; allowed are {allowed}, those of text also with .gz"
        )
    return suffix


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


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
