"""What an attempt leads to: the sentence of a refusal, and the words that a command writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli import main

__all__ = ["csv_file", "refusal", "refused_by", "rows_file"]


def refusal(act: Callable[[], object]) -> str:
    """The sentence that something is refused with; fails where it is taken, or where it ends in an error of Python's own."""
    with pytest.raises((ValueError, FileNotFoundError, FileExistsError, IsADirectoryError)) as caught:
        act()
    text = str(caught.value)
    assert "Traceback" not in text
    return text


def refused_by(words: Iterable[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a command refuses with, without Python's traceback, and with an exit status that is not 0."""
    capsys.readouterr()
    status = main([str(word) for word in words])
    error = capsys.readouterr().err
    assert status in (1, 2), f"exit status {status}: {error}"
    last = error.strip().splitlines()[-1]
    assert last.startswith("fulgurite: error: ") and "Traceback" not in error, error
    return last


def rows_file(file: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    """A file of JSON lines."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def csv_file(file: Path, text: str) -> str:
    """A file with this content."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return str(file)
