"""Rows that a run writes as lines of JSON, and those that an interrupted one has written already, for the next to go on behind."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["json_line", "written_rows"]


def written_rows(file: Path, foreign: bool = False) -> list[dict[str, Any]]:
    """The whole rows of a jsonl file, none if it is not there; what is JSON but no object is an empty row.

    Args:
        file: what an earlier run wrote.
        foreign: a line that is not JSON is an empty row too, not one that was cut off: somebody else wrote the file.
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
    """A row as one line, letters as they are; what JSON does not know, such as a date, as text.

    Args:
        row: columns by name.
    """
    line = json.dumps(row, ensure_ascii=False, default=str) + "\n"
    try:
        line.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which stands in a file as an escape only
        line = json.dumps(row, default=str) + "\n"
    return line
