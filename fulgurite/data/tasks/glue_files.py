"""GLUE's own files on disk: finding the file of a split, and the TSV layouts in which they have been published.

A file may be compressed (`train.tsv.gz`), a split may be a folder of `datasets.save_to_disk`, and the task's folder may lie in
one of the hub's cache.

A split's file is found by the words of its name: `train`, `dev` or `validation` or `val`, `test`, with `matched` and
`mismatched` for MNLI, so that `dev_matched.tsv`, `train.head-5000.tsv` and `train-00000-of-00001.parquet` are all
found. An exact name wins over a name that starts with the word, and that over one that only contains it.

Layouts: with or without a header line; the header of MRPC has names of its own; MNLI's training and development files
have 12 and 16 columns, the label last; CoLA's have no header but its test file does. Quotes are literal characters.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from fulgurite.data.records.examples import Examples
from fulgurite.data.sources.folders import content_folder, snapshot_of
from fulgurite.data.sources.formats import ending_of, is_row_source, stem_of
from fulgurite.data.sources.tables import Table, read_lines, read_table
from fulgurite.data.sources.text_formats import check_header
from fulgurite.data.tasks.glue import GLUETask, examples_from_rows

__all__ = ["find_split_files", "named_folder", "read_glue_file", "read_glue_split", "task_folder"]

_log = logging.getLogger(__name__)

_WORDS = {"train": ("train",), "validation": ("validation", "dev", "val", "valid"), "test": ("test",)}
_LINES = (".tsv", ".txt", "")
_SHARD = re.compile(r"-\d{5}-of-\d{5}$")
# The published QQP files hold a handful of lines with a lost tab; a file with more than this is something else.
_BROKEN_SHARE = 0.01


def task_folder(task: GLUETask, path: Path) -> Path:
    """The folder of the task: `path` itself, or the folder inside it that carries the task's name."""
    return named_folder((*task.folder, task.name), path)


def named_folder(names: Iterable[str], path: Path) -> Path:
    """`path` itself, or the folder inside it that carries one of the names, upper or lower case."""
    known = {name.lower() for name in names}
    path = snapshot_of(path)
    if path.is_dir() and path.name.lower() not in known:
        inside = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in known]
        # The published archives of some tasks unpack to <name>/<NAME>/.
        while len(inside) == 1:
            path = inside[0]
            inside = [p for p in sorted(path.iterdir()) if p.is_dir() and p.name.lower() in known]
    # Only in a folder of the task's name: another name's only folder may be another task's.
    within = path.is_dir() and path.name.lower() in known and not any(map(_holds_rows, path.iterdir()))
    return content_folder(path) if within else path


def _holds_rows(path: Path) -> bool:
    """Whether a split may lie there: a file of rows or lines, or a folder of `datasets.save_to_disk`."""
    if path.name.startswith("."):
        return False
    return is_row_source(path) or (path.is_file() and ending_of(path) in _LINES)


def find_split_files(folder: Path, split: str) -> list[Path]:
    """The file of a split (several, where it is sharded), or the folder that it was saved in; an empty list where there is none.

    Args:
        folder: the task's folder.
        split: "train", "validation" or "test", for MNLI with "_matched" or "_mismatched".
    """
    base, _, variant = split.partition("_")
    ranked: dict[tuple[int, int], list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if not _holds_rows(file):
            continue
        stem = _SHARD.sub("", file.name.lower() if file.is_dir() else stem_of(file))
        words = [word for word in re.split(r"[^a-z0-9]+", stem) if word]
        if "ids" in words or variant != next((w for w in words if w in ("matched", "mismatched")), ""):
            continue
        for order, word in enumerate(_WORDS[base]):
            if word in words:
                exact = stem in (word, f"{word}_{variant}", f"{word}-{variant}")
                rank = 0 if exact else 1 if stem.startswith(word) else 2
                ranked.setdefault((rank, order), []).append(file)
    if not ranked:
        return []
    best = ranked[min(ranked)]
    if len(best) > 1 and len({_SHARD.sub("", stem_of(f)) for f in best if _SHARD.search(stem_of(f))}) != 1:
        raise ValueError(
            f"{folder}: {', '.join(repr(f.name) for f in best)} may all be the {split} split; one is needed; "
            f"rename the one you mean to '{_WORDS[base][0]}{'_' + variant if variant else ''}{best[0].suffix}'"
        )
    return best


def read_glue_split(task: GLUETask, folder: Path, split: str) -> Examples | None:
    """The rows of a split from the task's folder, or None where it has no file for it."""
    if task.name == "ax":
        files = find_split_files(folder, split) or sorted(folder.glob("ax.*")) + sorted(folder.glob("diagnostic*"))[:1]
        files = files[:1] if split == "test" else []
    else:
        files = find_split_files(folder, split)
    if task.name == "mrpc" and (split == "train" or (split == "validation" and not files)):
        ids, train = _mrpc_ids(folder), find_split_files(folder, "train")
        if ids is not None and train:
            return _mrpc_by_ids(task, train[0], ids, split == "validation")
    if not files:
        return None
    examples = read_glue_file(task, files[0])
    for file in files[1:]:
        examples = examples.joined(read_glue_file(task, file))
    return examples


def read_glue_file(task: GLUETask, path: Path) -> Examples:
    """The rows of one file or saved folder: a GLUE TSV, or any other format of rows with the hub's column names."""
    if path.is_file() and ending_of(path) in _LINES:
        return _read_tsv(task, path, read_lines(path))
    table = read_table(path)
    table.require(*task.texts)
    return examples_from_rows(task, table.rows, table.source, table.lines)


def _read_tsv(task: GLUETask, path: Path, texts_of: Sequence[str]) -> Examples:
    lines = [(line.split("\t"), number) for number, line in enumerate(texts_of, 1) if line.strip()]
    fields = lines[0][0]
    texts, label = _columns(task, [name.strip() for name in fields], path)
    if texts is not None:
        check_header(path, [name.strip() for name in fields])
        width = len(fields)
        lines = lines[1:]
    else:
        width = Counter(len(fields) for fields, _ in lines[:100]).most_common(1)[0][0]
        count, texts, label = task.headerless
        if width != count:
            expected = ", ".join(map(repr, (*task.tsv_texts, task.tsv_label)))
            raise ValueError(
                f"{path}: {task.name} was expected with a header line that names {expected}, or {count} columns "
                f"without a header; line 1 has {width} fields: {', '.join(repr(f[:30]) for f in fields)[:200]}; "
                "check that the file belongs to the task"
            )
    whole = [(fields, number) for fields, number in lines if len(fields) == width]
    broken = [number for fields, number in lines if len(fields) != width]
    if broken and len(broken) > max(1, int(_BROKEN_SHARE * len(lines))):
        raise ValueError(
            f"{path}, line {broken[0]}: the line does not have the file's {width} fields, and {len(broken) - 1} more "
            "lines do not either; write one row per line, with tabs only between the fields"
        )
    if broken:
        _log.warning("%s: %d of %d lines left out, without %d fields: %s", path, len(broken), len(lines), width, broken)
    rows = []
    for row, _ in whole:
        item: dict[str, object] = dict(zip(task.texts, (row[i] for i in texts), strict=True))
        if label is not None:
            item["label"] = row[label].strip()
        rows.append(item)
    return examples_from_rows(task, rows, str(path), [number for _, number in whole])


def _columns(task: GLUETask, header: list[str], path: Path) -> tuple[tuple[int, ...] | None, int | None]:
    """(positions of the texts, position of the label) named by a header line; (None, None) where it is none."""
    layouts = tuple(dict.fromkeys((task.tsv_texts, task.texts)))
    for names in layouts:
        if all(name in header for name in names):
            labels = [i for i, name in enumerate(header) if name in (task.tsv_label, "label")]
            # Some copies of MRPC keep a byte order mark, or the letters BOM, before the first name.
            labels = labels or [i for i, name in enumerate(header[:1]) if task.name == "mrpc" and "Quality" in name]
            return tuple(header.index(name) for name in names), labels[0] if labels else None
    lower = {name.lower() for name in header}
    if task.tsv_label.lower() in lower or any(name.lower() in lower for names in layouts for name in names):
        Table(str(path), header, [], []).require(*layouts[0])
    return None, None


def _mrpc_ids(folder: Path) -> set[tuple[str, str]] | None:
    """Pairs of sentence ids of the Microsoft training file that GLUE develops on, where a file lists them."""
    for name in ("dev_ids", "dev_ids.tsv", "mrpc_dev_ids.tsv"):
        if (folder / name).is_file():
            pairs = [line.split("\t") for line in read_lines(folder / name) if line.strip()]
            return {(pair[0].strip(), pair[1].strip()) for pair in pairs if len(pair) >= 2}
    return None


def _mrpc_by_ids(task: GLUETask, path: Path, ids: set[tuple[str, str]], listed: bool) -> Examples:
    lines = read_lines(path)
    examples = _read_tsv(task, path, lines)
    keep = []
    for position, number in enumerate(examples.rows):
        fields = lines[number - 1].split("\t")
        if ((fields[1], fields[2]) in ids) == listed:
            keep.append(position)
    return examples.take(keep)
