"""Rows of parquet and arrow files, and of folders written by `datasets.save_to_disk`.

`save_to_disk` writes the rows of one data set into a folder: `state.json`, which lists the arrow files in their order, and
those files. Such a folder is read as one source of rows, like a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fulgurite.data.sources.text_formats import check_header

__all__ = ["is_saved", "read_arrow", "read_parquet", "read_saved", "saved_files"]

Numbered = tuple[dict[str, Any], int]

_BATCH_ROWS = 256
_STATE = "state.json"
_STREAM_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def read_parquet(path: Path) -> Iterator[Numbered]:
    """The rows of a parquet file, with their numbers from 1.

    Args:
        path: the file.
    """
    import pyarrow
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            check_header(path, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield row, number
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole parquet file ({error}); write or download it again") from error


def read_arrow(path: Path) -> Iterator[Numbered]:
    """The rows of an arrow file in either of its formats (stream, as `datasets` writes it, or file), with their numbers from 1.

    Args:
        path: the file.
    """
    import pyarrow
    from pyarrow import ipc

    number = 0
    try:
        with pyarrow.memory_map(str(path)) as file:
            try:
                reader: Any = ipc.open_stream(file)
                _check_end(path)
                batches = iter(reader)
            except pyarrow.ArrowInvalid:
                file.seek(0)
                reader = ipc.open_file(file)
                batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
            check_header(path, reader.schema.names)
            for batch in batches:
                for start in range(0, batch.num_rows, _BATCH_ROWS):
                    for row in batch.slice(start, _BATCH_ROWS).to_pylist():
                        number += 1
                        yield row, number
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole arrow file ({error}); write or download it again") from error


def _check_end(path: Path) -> None:
    """A stream that ends between two batches reads as a shorter one: only the mark at its end tells."""
    with path.open("rb") as file:
        file.seek(-len(_STREAM_END), 2)
        if file.read() != _STREAM_END:
            raise OSError("the mark at its end is missing: it was cut off")


def is_saved(folder: Path) -> bool:
    """Whether `datasets.save_to_disk` wrote the folder as one data set.

    Args:
        folder: any path.
    """
    return (folder / _STATE).is_file() and "_data_files" in _state(folder)


def _state(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{folder / _STATE}: not valid JSON ({error}); save the data set again") from error
    return content if isinstance(content, dict) else {}


def saved_files(folder: Path) -> list[Path]:
    """The arrow files of a saved data set, in the order of their rows; a missing one is a ValueError.

    Args:
        folder: for which `is_saved` holds.
    """
    state = _state(folder)
    if state.get("_indices_data_files"):
        raise ValueError(f"{folder}: saved by an old version of datasets, with an order beside its rows; save it again")
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (TypeError, KeyError) as error:
        raise ValueError(f"{folder / _STATE}: the list of its files cannot be read; save the data set again") from error
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ValueError(f"{folder}: {missing[0]} is missing, which {_STATE} names; copy or save the data set again")
    return files


def read_saved(folder: Path) -> Iterator[Numbered]:
    """The rows of a saved data set, numbered from 1 over all of its files.

    Args:
        folder: for which `is_saved` holds.
    """
    number = 0
    for file in saved_files(folder):
        for row, _ in read_arrow(file):
            number += 1
            yield row, number
