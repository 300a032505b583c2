"""Where the eleven tasks come from: the hub, files in their published schemas, CrossFit's two-column tsv, the playground.

CrossFit's files are `<task>_train.tsv`, `_dev.tsv` and `_test.tsv`: input, a tab, output, no header line. The columns of
the hub come as csv, tsv with a header, json, jsonl or parquet; GLUE's own TSV layouts are read by
fulgurite.data.tasks.glue_files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fulgurite.data.records.examples import Examples
from fulgurite.data.sources.formats import ending_of, is_row_source
from fulgurite.data.sources.hub import hub_rows
from fulgurite.data.sources.locate import check_hub_id
from fulgurite.data.sources.tables import read_lines, read_table
from fulgurite.data.sources.text_formats import lines_of
from fulgurite.data.tasks.glue_files import find_split_files, named_folder, read_glue_file, read_glue_split
from fulgurite.data.tasks.pet import AnsweredExamples, PETTask, answered, examples_from_columns, split_input

__all__ = ["pet_task_folder", "read_pet_file", "read_pet_split", "read_pet_source"]


def read_pet_source(task: PETTask, path: str, split: str, revision: str | None) -> AnsweredExamples | None:
    """The rows of an official split, or None where there is none.

    Args:
        task: the task.
        path: "" for the task's own hub id, "builtin", a file (all training rows), a folder, or another hub id.
        split: "train", "validation" or "test".
        revision: commit of the hub's data set.
    """
    if path == "builtin":
        return _builtin(task, split)
    where = Path(path).expanduser()
    if path and (where.is_file() or is_row_source(where)):
        return read_pet_file(task, where) if split == "train" else None
    if path and where.is_dir():
        return read_pet_split(task, pet_task_folder(task, where), split)
    check_hub_id(path, "PETTasks", endings=True)
    return _hub(task, path or task.hub[0], split, revision)


def pet_task_folder(task: PETTask, path: Path) -> Path:
    """The folder of the task: `path` itself, or the folder inside it that carries one of the task's names."""
    return named_folder((task.name, task.name.replace("_", "-"), *task.folders), path)


def read_pet_split(task: PETTask, folder: Path, split: str) -> AnsweredExamples | None:
    """The rows of a split from the task's folder, or None where it has no file for it."""
    names = (f"{split}_matched", split) if task.name == "mnli" and split != "train" else (split,)
    for name in names:
        files = find_split_files(folder, name)
        if len(files) == 1 and (ending_of(files[0]) != ".tsv" or task.glue is None or _two_columns(task, files[0])):
            return read_pet_file(task, files[0])
        if task.glue is not None:
            found = read_glue_split(task.glue, folder, name)
            if found is not None:
                return answered(task, found)
        elif files:
            parts = [read_pet_file(task, file) for file in files]
            return _joined(parts)
    return None


def read_pet_file(task: PETTask, path: Path) -> AnsweredExamples:
    """The rows of one file or saved folder, in whichever of the layouts it has."""
    if path.is_file() and ending_of(path) in (".tsv", ".txt", ""):
        if _two_columns(task, path):
            return _crossfit(task, path)
        if task.glue is not None:
            return answered(task, read_glue_file(task.glue, path))
    table = read_table(path)
    table.require(*task.texts)
    return examples_from_columns(task, table.rows, table.source, table.lines)


def _two_columns(task: PETTask, path: Path) -> bool:
    """Whether a tsv is CrossFit's: two fields, and the first line no header of the task's columns."""
    first = next((line for line, _ in lines_of(path) if line.strip()), "")
    fields = [field.strip() for field in first.split("\t")]
    if len(fields) != 2:
        return False
    known = {*task.texts, task.target, "label", *(task.glue.tsv_texts if task.glue is not None else ())}
    headed = any(field in known for field in fields)
    digits = (
        bool(task.labels) and fields[1].isdigit() and task.glue is not None and not fields[0].startswith(task.prefixes)
    )
    return not headed and not digits


def _crossfit(task: PETTask, path: Path) -> AnsweredExamples:
    rows: list[dict[str, Any]] = []
    numbers = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        fields = line.split("\t")
        where = f"{path}, line {number}"
        if len(fields) != 2:
            raise ValueError(
                f"{where}: {len(fields)} fields were found; two are needed, the input and the output with a tab between"
            )
        texts = split_input(task, fields[0], where)
        rows.append({**dict(zip(task.texts, texts, strict=True)), task.target: fields[1].strip()})
        numbers.append(number)
    return examples_from_columns(task, rows, str(path), numbers)


def _joined(parts: list[AnsweredExamples]) -> AnsweredExamples:
    whole: Examples = parts[0]
    for part in parts[1:]:
        whole = whole.joined(part)
    answers = [answer for part in parts for answer in part.answers]
    return AnsweredExamples(whole.texts, whole.pairs, whole.labels, whole.source, whole.rows, answers)


def _builtin(task: PETTask, split: str) -> AnsweredExamples | None:
    from fulgurite.data.playground import builtin_rows

    official = dict(zip(("train", "validation", "test"), task.splits, strict=True))[split]
    if official is None:
        return None
    rows = builtin_rows(task.schema, official)
    return examples_from_columns(task, rows, f"builtin {task.schema} {official}")


def _hub(task: PETTask, name: str, split: str, revision: str | None) -> AnsweredExamples | None:
    official = dict(zip(("train", "validation", "test"), task.splits, strict=True))[split]
    if official is None:
        return None
    advice = "a file or folder of the task's rows, or to 'builtin'"
    rows = hub_rows(name, official, owner="PETTasks", revision=revision, config=task.hub[1], advice=advice)
    return examples_from_columns(task, rows, f"{name} {official}")
