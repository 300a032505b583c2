"""Rows of a file of any known format and any size, one after the other, with errors that name file, line and byte.

| name ends in | content | in memory at a time |
|---|---|---|
| .jsonl, .ndjson | one object per line; empty lines are skipped | a line |
| .json | a list of objects (an object around the list is read whole) | about a mebibyte, or the longest object |
| .csv, .tsv | a header line, then rows (fulgurite.data.sources.text_formats) | a row |
| .parquet, .arrow | any table | 256 rows |
| a folder of `datasets.save_to_disk` | the arrow files that its state.json names | 256 rows |

Text is UTF-8, with or without a byte order mark, and may be compressed (`.jsonl.gz` and so on). A file that was cut
off, is damaged or is not UTF-8 is an error: unlike a bad row, it says that the file is not what was published.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fulgurite.data.sources.columnar import is_saved, read_arrow, read_parquet, read_saved, saved_files
from fulgurite.data.sources.json_list import read_json
from fulgurite.data.sources.text_formats import read_csv, read_jsonl, read_tsv

__all__ = [
    "ending_of",
    "file_hash",
    "is_row_file",
    "is_row_source",
    "near_name",
    "no_such_file",
    "stem_of",
    "stream_rows",
]

Row = dict[str, Any]
Numbered = tuple[Row, int]

_BLOCK = 1 << 20
_POINTER, _GZIP, _ZIP = b"version https://git-lfs", b"\x1f\x8b", b"PK\x03\x04"


def stream_rows(path: str | Path) -> Iterator[Numbered]:
    """The rows of a file with the number of their line, or of the row where a file has no lines, from 1.

    Args:
        path: a file with a known ending, or a folder of `datasets.save_to_disk`.
    """
    path = Path(path)
    reader = format_of(path)
    if not path.exists():
        raise no_such_file(path)
    _check_begin(path)
    empty = True
    for row in reader(path):
        empty = False
        yield row
    if empty:
        raise ValueError(f"{path}: the file has no row; at least one is needed")


def _check_begin(path: Path) -> None:
    """Says what a file is whose first bytes are those of something else than its name says."""
    if path.is_dir():
        return
    with path.open("rb") as file:
        begin = file.read(len(_POINTER))
    if begin == _POINTER:
        raise ValueError(f"{path}: a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`")
    if begin.startswith(_GZIP) and not path.name.lower().endswith(".gz"):
        raise ValueError(f"{path}: compressed by gzip; give it a name that ends in {ending_of(path)}.gz, or unpack it")
    if begin.startswith(_ZIP):
        raise ValueError(f"{path}: a zip archive; unpack it, and give one of its files")


def no_such_file(path: Path, owner: str = "") -> FileNotFoundError:
    """The error for a path where nothing lies; it names the file beside it whose name is nearest.

    Args:
        path: where nothing lies.
        owner: what messages call the caller; "" for nobody.
    """
    said = f"{owner}{': ' if owner else ''}{path}"
    if path.is_symlink():
        return FileNotFoundError(f"{said}: a link to a place where nothing is, or to itself; correct the link")
    return FileNotFoundError(f"{said}: no such file; {near_name(path) or 'check the path'}")


def near_name(path: Path) -> str | None:
    """What a message asks about a path where nothing lies: whether the file with the nearest name was meant; None for no such file.

    Args:
        path: where nothing lies.
    """
    beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, beside, n=1)
    return f"did you mean {str(path.parent / near[0])!r}?" if near else None


def stem_of(path: Path) -> str:
    """The name in lower case without the endings that are known: `chats.test` of chats.test.jsonl.gz."""
    return path.name.lower().removesuffix(".gz").removesuffix(ending_of(path))


def is_row_file(path: Path) -> bool:
    """Whether the name ends as a file of rows does.

    Args:
        path: which need not exist.
    """
    return ending_of(path) in _READERS


def is_row_source(path: Path) -> bool:
    """Whether `stream_rows` reads what lies there: a file of rows, or a folder of `datasets.save_to_disk`.

    Args:
        path: any path.
    """
    return (path.is_file() and is_row_file(path)) or is_saved(path)


def ending_of(path: Path) -> str:
    """The ending of the name in lower case, ".gz" aside: ".jsonl" of chats.test.JSONL.gz."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def format_of(path: Path) -> Callable[[Path], Iterator[Numbered]]:
    """What reads a path; a ValueError that lists the known endings where nothing does.

    Args:
        path: a file with a known ending, which need not exist, or a folder of `datasets.save_to_disk`.
    """
    if path.is_dir():
        if is_saved(path):
            return read_saved
        raise ValueError(f"{path}: a folder; give one of its files, or a folder of datasets.save_to_disk")
    ending = ending_of(path)
    if ending not in _READERS:
        allowed = ", ".join(_READERS)
        raise ValueError(
            f"{path}: ending {path.suffix!r} is not known; allowed are {allowed}; text files may "
            "be compressed and end in .gz as well"
        )
    return _READERS[ending]


def file_hash(path: Path) -> str:
    """The sha256 of a file's bytes, or of all arrow files of a folder of `datasets.save_to_disk`, in hexadecimal.

    Args:
        path: what `stream_rows` reads.
    """
    digest = hashlib.sha256()
    for part in saved_files(path) if path.is_dir() else [path]:
        with part.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


_READERS: dict[str, Callable[[Path], Iterator[Numbered]]] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
}
