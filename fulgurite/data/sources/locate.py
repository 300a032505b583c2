"""Where rows lie, a hub id, a local file or folder, or the playground, each as sources that can be read again and again."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.data.sources.folders import SPLITS, content_folder, split_files
from fulgurite.data.sources.formats import (
    Numbered,
    Row,
    file_hash,
    format_of,
    is_row_file,
    is_row_source,
    near_name,
    no_such_file,
    stream_rows,
)
from fulgurite.data.sources.hub import hub_split

__all__ = [
    "RowSource",
    "check_hub_id",
    "file_source",
    "find_sources",
    "hub_source",
    "list_source",
    "local_sources",
    "short_name",
    "user_sources",
]

_BUILTIN_SPLITS = {"train": "train", "val": "validation", "test": "test"}


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


def find_sources(
    path: str,
    split: str,
    *,
    owner: str,
    builtin: str,
    revision: str | None = None,
    only_split: bool = False,
    use: str = "sft",
) -> list[RowSource]:
    """The sources of one split; an empty list where there is no such split.

    Args:
        path: hub id, file, folder, or "builtin"; "builtin:DOMAIN" takes rows of text, code or maths alone, "builtin:SCHEMA"
            those of another schema of the playground.
        split: "train", "val" or "test".
        owner: what messages call the caller.
        builtin: schema of the playground's rows.
        revision: commit of the hub's data set.
        only_split: the path was given for this split: a file is it, whatever its name, and so are unnamed files.
        use: "sft" or "prefs": which of several kinds of files or splits is meant.
    """
    if path == "builtin" or path.startswith("builtin:"):
        from fulgurite.data.playground import DOMAINS, SCHEMAS

        name = path.partition(":")[2]
        if name and name not in (*DOMAINS, *SCHEMAS):
            raise ValueError(
                f"{owner}: path is {path!r}; allowed are 'builtin', builtin:{', builtin:'.join(DOMAINS)}, and the schemas "
                f"builtin:{', builtin:'.join(SCHEMAS)}"
            )
        builtin = f"ultrachat2/{name}" if name in DOMAINS else name or builtin
        if builtin == "text" and split == "test":
            return []
        return [
            _builtin_source(builtin, _BUILTIN_SPLITS[split], 2000 if (builtin, split) == ("text", "train") else None)
        ]
    local = Path(path).expanduser()
    if local.exists():
        return local_sources(local, split, only_split, use)
    check_hub_id(path, owner)
    found = hub_source(path, split, owner, revision, use)
    return [] if found is None else [found]


def check_hub_id(path: str, owner: str, endings: bool = False) -> None:
    """Refuses a path where nothing lies, unless it may be a hub id: a name, or two with one slash between.

    Args:
        path: as it was given.
        owner: what messages call the caller.
        endings: refuse names with any ending, not only with those of rows.
    """
    local = Path(path).expanduser()
    row_file = bool(local.suffix) if endings else is_row_file(local)
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1 or row_file:
        raise FileNotFoundError(f"{owner}: path {path!r} is no file and no folder; {near_name(local) or 'check it'}")


def local_sources(path: Path, split: str, only_split: bool = False, use: str = "sft") -> list[RowSource]:
    """The sources of one split in a file or folder.

    Args:
        path: a file or a folder of `datasets.save_to_disk`, which hold training rows, or a folder with files named after
            their split.
        split: "train", "val" or "test".
        only_split: the path was given for this split.
        use: "sft" or "prefs".
    """
    if path.is_file() or is_row_source(path):
        return [file_source(path)] if split == "train" or only_split else []
    files = split_files(path, split, use) or (split_files(path, "train", use) if only_split else [])
    if not files and (split == "train" or only_split):
        raise ValueError(
            f"{path}: no file for {split} rows; allowed are json, jsonl, csv, tsv, parquet and arrow files whose names say "
            f"the split or no split; found {_listing(path)}"
        )
    return [file_source(file) for file in files]


def _listing(folder: Path) -> str:
    return ", ".join(sorted(path.name for path in content_folder(folder).iterdir())[:20]) or "nothing"


def user_sources(path: str | Path, *, owner: str, split: str | None = None) -> list[RowSource]:
    """The sources of a file or folder that a user named for a command.

    Args:
        path: a file of a known ending, a folder of `datasets.save_to_disk`, or a folder with files named after their split.
        owner: what messages call the caller.
        split: "train", "val" or "test"; None takes the only one that there is.
    """
    place = Path(path).expanduser()
    if not place.exists():
        raise no_such_file(place, owner)
    if place.is_file() or is_row_source(place):
        return [file_source(place)]
    wanted = SPLITS if split is None else (split,)
    found = {name: files for name in wanted if (files := split_files(place, name))}
    if len(found) > 1:
        raise ValueError(
            f"{owner}: {place} holds rows of several splits ({', '.join(found)}); give one of its files or folders, such as "
            f"{next(iter(found.values()))[0]}"
        )
    if not found:
        raise ValueError(
            f"{owner}: {place} holds no {f'{split} ' if split else ''}rows; allowed are json, jsonl, csv, tsv, parquet and arrow "
            f"files, and folders of datasets.save_to_disk; found {_listing(place)}"
        )
    return [file_source(file) for files in found.values() for file in files]


def hub_source(name: str, split: str, owner: str, revision: str | None = None, use: str = "sft") -> RowSource | None:
    """A split of a data set on the hub; None where it has no such split.

    Args:
        name: its id.
        split: "train", "val" or "test".
        owner: what messages call the caller.
        revision: a commit; None takes the newest.
        use: "sft" or "prefs".
    """
    found = hub_split(name, split, owner=owner, revision=revision, use=use)
    if found is None:
        return None
    chosen, data = found[0], found[1]

    def rows() -> Iterator[Numbered]:
        return ((row, number) for number, row in enumerate(data, 1))

    return RowSource(f"{name} {chosen}", rows, lambda: f"{name} {chosen} {revision} {_hub_fingerprint(data)}")


def _hub_fingerprint(data: Any) -> str:
    return str(data._fingerprint)


def file_source(path: str | Path) -> RowSource:
    """The rows of one file.

    Args:
        path: a file with a known ending, or a folder of `datasets.save_to_disk`.
    """
    file = Path(path)
    format_of(file)
    return RowSource(str(file), lambda: stream_rows(file), lambda: file_hash(file))


@functools.lru_cache(maxsize=16)
def _builtin_source(schema: str, split: str, count: int | None) -> RowSource:
    """Rows of the playground, made once in a process and held as text: whoever reads them gets rows of its own."""
    from fulgurite.data.playground import builtin_rows

    lines = [json.dumps(row) for row in builtin_rows(schema, split, count=count)]
    name = f"builtin {schema} {split}"
    fingerprint = functools.cache(lambda: list_source(name, [json.loads(line) for line in lines]).fingerprint())
    return RowSource(name, lambda: ((json.loads(line), number) for number, line in enumerate(lines, 1)), fingerprint)


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


def short_name(source: str) -> str:
    """What a file, folder or hub id is called without the path to it.

    Args:
        source: its name.
    """
    return re.split(r"[/\\]", source.rstrip("/\\"))[-1].split(".")[0] or source
