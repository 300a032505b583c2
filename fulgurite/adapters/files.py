"""Writes the files of a folder under temporary names and renames them once all of them have been written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["write_files"]


def write_files(folder: Path, writers: dict[str, Callable[[Path], Any]]) -> None:
    """Write the files of ``folder``: all of them, or, if one cannot be written, none.

    Args:
        folder: made if it does not exist.
        writers: by a file's name, a function that writes its content to the path that it is given.

    Raises:
        ValueError: ``folder`` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder to write to.")
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {folder / name: folder / f".{name}.{os.getpid()}.tmp" for name in writers}
    try:
        for path, scratch in temporary.items():
            writers[path.name](scratch)
        for path, scratch in temporary.items():
            os.replace(scratch, path)
    finally:
        for scratch in temporary.values():
            scratch.unlink(missing_ok=True)
