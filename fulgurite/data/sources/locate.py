"""Where conversations come from: a hub id, a local file or folder, or the playground, each as sources of rows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fulgurite.data.sources.formats import BLOCK, Numbered, Row, format_ending, is_row_file, stem_of, stream_rows

__all__ = [
    "RowSource",
    "file_source",
    "find_sources",
    "hub_source",
    "list_source",
    "local_sources",
    "split_files",
]

_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val",
    "test": "test",
}  # fmt: skip

_USE_WORDS = {"sft": {"sft"}, "prefs": {"prefs", "pair"}}

_NO_ROWS = {"dataset_info", "dataset_infos", "dataset_dict", "state", "config", "tokenizer", "tokenizer_config"}

# The names that published data sets give to a split, the preferred first; those for one use end with `_sft` or `_prefs`.
_HUB_SPLITS = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
_BUILTIN_SPLITS = {"train": "train", "val": "validation", "test": "test"}


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
    """The sources of one split; none where there is no such split.

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
        from fulgurite.data.playground import DOMAINS, SCHEMAS, builtin_rows

        name = path.partition(":")[2]
        if name and name not in (*DOMAINS, *SCHEMAS):
            raise ValueError(
                f"{owner}: path is {path!r}; allowed are 'builtin', builtin:{', builtin:'.join(DOMAINS)}, and the schemas "
                f"builtin:{', builtin:'.join(SCHEMAS)}"
            )
        builtin = f"ultrachat2/{name}" if name in DOMAINS else name or builtin
        if builtin == "text" and split == "test":
            return []
        rows = builtin_rows(
            builtin, _BUILTIN_SPLITS[split], count=2000 if builtin == "text" and split == "train" else None
        )
        return [list_source(f"builtin {builtin} {_BUILTIN_SPLITS[split]}", rows)]
    local = Path(path).expanduser()
    if local.exists():
        return local_sources(local, split, only_split, use)
    if local.is_absolute() or path.startswith((".", "~")) or path.count("/") > 1 or is_row_file(local):
        raise FileNotFoundError(f"{owner}: path {path!r} is no file and no folder; check it")
    found = hub_source(path, split, owner, revision, use)
    return [] if found is None else [found]


def local_sources(path: Path, split: str, only_split: bool = False, use: str = "sft") -> list[RowSource]:
    """The sources of one split in a file or folder.

    Args:
        path: a file, which holds training rows, or a folder with files named after their split.
        split: "train", "val" or "test".
        only_split: the path was given for this split.
        use: "sft" or "prefs".
    """
    if path.is_file():
        return [file_source(path)] if split == "train" or only_split else []
    files = split_files(path, split, use) or (split_files(path, "train", use) if only_split else [])
    if not files and (split == "train" or only_split):
        found = sorted(p.name for p in path.iterdir())[:20]
        raise ValueError(
            f"{path}: no file for {split} rows; allowed are json, jsonl, csv, tsv and parquet files whose names say "
            f"the split or none; found {', '.join(found) or 'nothing'}"
        )
    return [file_source(file) for file in files]


def hub_source(name: str, split: str, owner: str, revision: str | None = None, use: str = "sft") -> RowSource | None:
    """A split of a data set on the hub; None where it has no such split.

    Args:
        name: its id.
        split: "train", "val" or "test".
        owner: what messages call the caller.
        revision: a commit; None takes the newest.
        use: "sft" or "prefs".
    """
    from datasets import get_dataset_split_names, load_dataset

    try:
        names = get_dataset_split_names(name, revision=revision)
        preferred = (f"{_HUB_SPLITS[split][0]}_{use}", *_HUB_SPLITS[split])
        chosen = next((wanted for wanted in preferred if wanted in names), None)
        if chosen is None:
            if split != "train":
                return None
            raise ValueError(f"its splits are {', '.join(names)}; one called train is needed")
        data: Any = load_dataset(name, split=chosen, revision=revision)
    except Exception as error:  # the hub's client raises a dozen kinds of its own
        raise ValueError(
            f"{owner}: {split} rows of {name!r} (revision {revision or 'newest'}) cannot be loaded from the hub: {error}; "
            "check the name and the network, or set path to a local file or folder or to 'builtin'"
        ) from error

    def rows() -> Iterator[Numbered]:
        return ((row, number) for number, row in enumerate(data, 1))

    return RowSource(f"{name} {chosen}", rows, lambda: f"{name} {chosen} {revision} {data._fingerprint}")


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
    format_ending(file)
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
        if path.is_file() and is_row_file(path) and not path.name.startswith(".") and stem_of(path) not in _NO_ROWS
    ]
    if not files and (folder / "data").is_dir():
        return split_files(folder / "data", split, use)
    words = {path: re.split(r"[^a-z0-9]+", stem_of(path)) for path in files}
    if any(_USE_WORDS[use] & set(found) for found in words.values()):
        files = [path for path in files if _USE_WORDS[use] & set(words[path])]
    named = {path: next((_SPLIT_WORDS[w] for w in words[path] if w in _SPLIT_WORDS), "train") for path in files}
    return [path for path in files if named[path] == split]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
