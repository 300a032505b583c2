"""Counts from files of rows (model, size, instance, n, c[, r, cap, loss, …]), or from scores of `fulgurite evaluate`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from fulgurite.data.sources.tables import rows_of
from fulgurite.evaluation.pass_until.counts import Count
from fulgurite.evaluation.runner.record_file import read_records
from fulgurite.evaluation.runner.sampling import SAMPLE_KEY

__all__ = ["COLUMNS", "read_counts", "read_size"]

COLUMNS = ("model", "size", "instance", "n", "c", "r", "cap", "loss", "compute", "settings", "grader", "stop", "items")
_NEEDED = ("model", "instance", "n", "c")
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9, "t": 1e12}


def read_counts(
    path: Path,
    columns: Mapping[str, str] | None = None,
    sizes: Mapping[str, float] | None = None,
    by: str = "size",
    task: str | None = None,
    models: Sequence[str] | None = None,
) -> list[Count]:
    """The counts of one file, or of the folder of one `fulgurite evaluate` run.

    Args:
        path: a file of a known ending (.csv, .tsv, .jsonl, .json, .parquet, …), or the folder that was given as --out.
        columns: the file's names of the columns, by ours, where they differ.
        sizes: sizes by model; needed where the file has no column for them. The model of a folder is the folder's name.
        by: "size" or "compute", the column that the law goes by.
        task: which task of a folder; None if it has only one.
        models: names or patterns of the models that are read; None for all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a column or a value is missing or no number; a folder of multiple choice or of no scores.
    """
    if path.is_dir():
        return _of_run(path, sizes or {}, task) if _chosen(path.name, models) else []
    if not path.is_file():
        raise FileNotFoundError(
            f"scaling: {path}: no such file; give a .csv or .jsonl of counts, or a folder of evaluate"
        )
    named = {name: (columns or {}).get(name, name) for name in COLUMNS}
    unknown = sorted({*(columns or {})} - {*COLUMNS})
    if unknown:
        raise ValueError(
            f"scaling: columns {', '.join(unknown)} were given; allowed are {', '.join(COLUMNS)}; correct --columns"
        )
    return [
        _count(row, named, sizes or {}, by, where)
        for where, row in _rows(path, named, columns or {})
        if _chosen(str(row.get(named["model"])), models)
    ]


def read_size(text: object) -> float:
    """A size from a number or a text such as 1.4B, 70M or 3e9.

    Args:
        text: as it stands in the file.

    Raises:
        ValueError: it is no number.
    """
    word = str(text).strip().lower().replace("_", "")
    unit = _UNITS.get(word[-1:])
    return float(word[:-1]) * unit if unit else float(word)


def _chosen(model: str, patterns: Sequence[str] | None) -> bool:
    return patterns is None or any(fnmatchcase(model, pattern) for pattern in patterns)


def _rows(path: Path, named: Mapping[str, str], given: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    found = [(str(place), dict(row)) for place, row in rows_of(path, owner="scaling")]
    there = list(dict.fromkeys(name for _, row in found for name in row))
    lacking = [named[name] for name in _NEEDED if named[name] not in there]
    lacking += [name for name in given.values() if name not in (*there, *lacking)]
    if lacking:
        raise ValueError(
            f"scaling: {path} lacks {', '.join(lacking)}; it has {', '.join(map(str, there))}; name its columns with "
            '--columns \'{"model": "its name", …}\''
        )
    return found


def _count(row: Mapping[str, Any], named: Mapping[str, str], sizes: Mapping[str, float], by: str, where: str) -> Count:
    def value(name: str) -> Any:
        found = row.get(named[name])
        return None if found is None or str(found).strip() == "" else found

    def whole(name: str, default: int | None = None) -> int:
        found = value(name)
        if found is None and default is not None:
            return default
        try:
            number = float(found)
        except (TypeError, ValueError):
            number = math.nan
        if not number.is_integer():
            raise ValueError(
                f"scaling: {where}: {named[name]}={found!r} was given; needed is a whole number; correct the row"
            )
        return int(number)

    model = str(value("model"))
    given: Any = sizes.get(model) if by == "size" else None
    column = value(by)
    if given is not None and column is not None and read_size(column) != given:
        raise ValueError(
            f"scaling: {where}: {model} has {named[by]} {column}, and --sizes gives {given:g}; leave one of both out"
        )
    if given is None:
        given = column
    if given is None:
        raise ValueError(
            f"scaling: {where}: {model} has no {named[by]}; add the column, name it with --columns"
            + (", or give --sizes" if by == "size" else "")
        )
    try:
        size = read_size(given)
        loss = None if value("loss") is None else float(value("loss"))
    except ValueError as error:
        raise ValueError(
            f"scaling: {where}: {error}; needed is a number, such as 1.4B or 1.4e9; correct the row"
        ) from error
    r = whole("r", 0)
    if r and value("cap") is None:
        raise ValueError(f"scaling: {where}: r={r} without a cap; add the column cap, the number of draws at most")
    return Count(
        model,
        size,
        str(value("instance")),
        whole("n"),
        whole("c"),
        r,
        whole("cap", 0) if r else 0,
        loss,
        str(value("settings") or ""),
        str(value("grader") or ""),
        str(value("stop") or "instance"),
        whole("items", 0),
        where,
    )


def _of_run(folder: Path, sizes: Mapping[str, float], task: str | None) -> list[Count]:
    """The counts of one task of a run: its samples are a fixed number of draws of each item."""
    tasks = sorted(file.parent.name for file in folder.glob("*/scores.jsonl"))
    if not tasks:
        raise ValueError(
            f"scaling: {folder} holds no TASK/scores.jsonl; give the folder that was --out of fulgurite evaluate"
        )
    if task is None and len(tasks) > 1:
        raise ValueError(f"scaling: {folder} holds {', '.join(tasks)}; choose one with --task")
    if task is not None and task not in tasks:
        raise ValueError(f"scaling: {folder} holds {', '.join(tasks)}, not {task}; choose one of them with --task")
    chosen = folder / (task or tasks[0])
    name = folder.name
    if name not in sizes:
        raise ValueError(
            f"scaling: {folder}: the size of {name} is not known; give it with --sizes '{{\"{name}\": 1.4e9}}'"
        )
    judged, scores = read_records(chosen / "scores.jsonl", SAMPLE_KEY)
    identity, _ = read_records(chosen / "samples.jsonl", SAMPLE_KEY)
    if scores and "correct" not in scores[0]:
        raise ValueError(
            f"scaling: {chosen} is multiple choice, which guessing passes too; the law needs a task that chance cannot pass; "
            "let the model answer freely"
        )
    settings = {key: identity.get(key) for key in ("task", "version", "shots", "chat")}
    drawn = {key: value for key, value in (identity.get("settings") or {}).items() if key not in ("n", "seed")}
    if drawn.get("temperature") == 0:
        raise ValueError(
            f"scaling: {chosen} was written with temperature 0, where each draw is the same; draw with --temperature 1 and --n"
        )
    marks: dict[str, list[float]] = {}
    for score in scores:
        marks.setdefault(str(score["item"]), []).append(float(score["correct"]))
    partial = next((item for item, own in marks.items() if any(mark not in (0.0, 1.0) for mark in own)), None)
    if partial is not None:
        raise ValueError(f"scaling: {chosen}: item {partial} has a part of a point; needed are scores of 0 or 1")
    return [
        Count(
            name,
            float(sizes[name]),
            item,
            len(own),
            int(sum(own)),
            settings=json.dumps({**settings, **drawn}, sort_keys=True),
            grader=json.dumps(judged.get("judge"), sort_keys=True),
            where=str(chosen),
        )
        for item, own in marks.items()
    ]
