"""Rows that an interrupted run has written already, so that the next one goes on behind them."""

import json
from pathlib import Path
from typing import Any

__all__ = ["written_rows"]


def written_rows(file: Path) -> list[dict[str, Any]]:
    """The whole rows of a jsonl file, none if it is not there; a last line that was cut off is not one.

    Args:
        file: what an earlier run wrote.
    """
    rows = []
    for line in file.read_bytes().split(b"\n") if file.is_file() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows.append(row if isinstance(row, dict) else {})
    return rows
