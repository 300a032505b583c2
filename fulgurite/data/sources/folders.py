"""Which files of a folder hold the rows of a split, by the words of their names and of the folders around them.

| folder | holds |
|---|---|
| files | every file of rows, by a word in its name: `chats.test.jsonl.gz`, `train-00000-of-00002.parquet` |
| `datasets.save_to_disk` of several splits | a folder of arrow files for each split, by its name |
| folders `train`, `test`, … | files of rows, by the folder's name |
| one folder within another, `data`, a snapshot of the hub's cache | what lies in there |

A file whose name says no split holds training rows, also beside files that say one.
"""

from __future__ import annotations

import re
from pathlib import Path

from fulgurite.data.sources.columnar import is_saved
from fulgurite.data.sources.formats import is_row_file, stem_of

__all__ = ["SPLITS", "content_folder", "name_words", "snapshot_of", "split_files", "split_of"]

SPLITS = ("train", "val", "test")
_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val", "eval": "val",
    "test": "test",
}  # fmt: skip
_USE_WORDS = {"sft": {"sft"}, "prefs": {"prefs", "pair"}}
_NO_ROWS = {"dataset_info", "dataset_infos", "dataset_dict", "state", "config", "tokenizer", "tokenizer_config"}


def split_files(folder: Path, split: str, use: str = "sft") -> list[Path]:
    """The files (or folders of `datasets.save_to_disk`) that hold the rows of a split, sorted.

    Where some files are for one use, by the word `sft`, or `prefs` or `pair` in their names (`train_sft-…`,
    `0000_pair.parquet`), only those of the use at hand count.

    Args:
        folder: the folder.
        split: "train", "val" or "test".
        use: "sft" or "prefs".
    """
    words = _words_of_parts(content_folder(folder))
    if any(_USE_WORDS[use] & set(found) for found in words.values()):
        words = {path: found for path, found in words.items() if _USE_WORDS[use] & set(found)}
    return [path for path, found in words.items() if split_of(found) == split]


def split_of(words: list[str]) -> str:
    """The split that the words of a name say, the first of them that says one; "train" where none does.

    Args:
        words: of `name_words`.
    """
    return next((_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS), "train")


def name_words(path: Path) -> list[str]:
    """The words of a name in lower case, without endings: chats, test of Chats.test.jsonl.gz.

    Args:
        path: a file or folder.
    """
    return re.split(r"[^a-z0-9]+", stem_of(path) if is_row_file(path) else path.name.lower())


def content_folder(folder: Path) -> Path:
    """The folder in which the rows lie: `folder` itself, the snapshot of a folder of the hub's cache, its folder `data`, or
    the only folder in it, as far down as that goes.

    Args:
        folder: an existing folder.
    """
    folder = snapshot_of(folder)
    if is_saved(folder) or _words_of_parts(folder):
        return folder
    if (folder / "data").is_dir():
        return content_folder(folder / "data")
    inside = _folders(folder)
    return content_folder(inside[0]) if len(inside) == 1 else folder


def snapshot_of(folder: Path) -> Path:
    """The snapshot in a folder of the hub's cache, that of its branch main or the only one; any other folder itself.

    Args:
        folder: an existing folder.
    """
    snapshots, main = folder / "snapshots", folder / "refs" / "main"
    if not snapshots.is_dir():
        return folder
    if main.is_file():
        chosen = snapshots / main.read_text(encoding="utf-8").strip()
        if chosen.is_dir():
            return chosen
    found = _folders(snapshots)
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise ValueError(f"{snapshots}: one snapshot is needed; found {names}; give the folder of the one you mean")
    return found[0]


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _words_of_parts(folder: Path) -> dict[Path, list[str]]:
    """What holds rows in a folder, with the words that its split is read off; sorted."""
    if is_saved(folder):
        return {folder: []}
    found = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and is_row_file(path):
            stem = stem_of(path)
            if stem not in _NO_ROWS and not (stem.startswith("cache-") and path.suffix == ".arrow"):
                found[path] = name_words(path)
        elif path.is_dir() and is_saved(path):
            found[path] = name_words(path)
    if found:
        return found
    for inner in _folders(folder):
        if any(word in _SPLIT_WORDS for word in name_words(inner)):
            files = {path: [*name_words(inner), *words] for path, words in _words_of_parts(inner).items()}
            found |= files
    return found
