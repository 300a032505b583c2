"""Where conversations come from: a hub id, a local file or folder, or the playground, each as sources of rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fulgurite.data.streaming import Numbered, RowSource, file_source, is_row_file, list_source, split_files

__all__ = ["find_sources", "hub_source", "local_sources"]

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
