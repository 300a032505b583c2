"""Rows as lines of JSON: writing one, and reading those that an interrupted run has left, so that the next run goes on there."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["json_line", "stamp", "written_rows"]


def written_rows(file: Path, foreign: bool = False) -> list[dict[str, Any]]:
    """The rows of a jsonl file that are whole; an empty list if the file is not there.

    A line that is JSON but no object counts as an empty row.

    Args:
        file: what an earlier run wrote.
        foreign: whether a line that is not JSON counts as an empty row too, because somebody else may have written the file;
            otherwise it is taken for one that was cut off, and left out.
    """
    rows = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            if not foreign or not line.strip():
                continue
            row = None
        rows.append(row if isinstance(row, dict) else {})
    return rows


def json_line(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON, with letters as they are, and dates and the like as text.

    Args:
        row: columns by name.
    """
    line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which stands in a file as an escape only
        line = json.dumps(row, default=str) + "\n"
    return line


def stamp(path: str | None) -> int | None:
    """When the newest file of a local model or adapter was written, in ns: trained again, it gives other rows.

    Args:
        path: a file, a folder, or the name of a hub's model, which has no stamp.
    """
    place = Path(path) if path is not None else None
    if place is None or not place.exists():
        return None
    files = [place] if place.is_file() else [file for file in place.iterdir() if file.is_file()]
    return max((file.stat().st_mtime_ns for file in files), default=None)
