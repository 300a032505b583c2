"""One fit per run folder at a time: two would mix their metrics and overwrite each other's checkpoints without a word."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fulgurite.console import shortest

__all__ = ["RunLock"]

try:
    import fcntl
except ImportError:  # Windows: no lock, as before
    fcntl = None  # type: ignore[assignment]


class RunLock:
    """Holds a run folder for this process; the system lets go of it when the process ends, however it ends."""

    def __init__(self) -> None:
        self._stream: Any = None

    def take(self, folder: Path) -> None:
        """Take the folder, or keep it if it is held already.

        Args:
            folder: of the run.

        Raises:
            ValueError: another process holds it.
        """
        if fcntl is None or self._stream is not None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        stream = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115  open as long as the folder is held
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            owner = stream.read().strip() or "another process"
            stream.close()
            raise ValueError(
                f"fit: {owner} is training in {shortest(folder)}; two runs would overwrite each other's checkpoints. Wait for it, "
                "or give --trainer.default_root_dir another folder."
            ) from None
        except OSError:  # a file system without locks
            stream.close()
            return
        stream.truncate(0)
        stream.write(f"process {os.getpid()}")
        stream.flush()
        self._stream = stream

    def release(self) -> None:
        """Let go of the folder."""
        if self._stream is not None:
            self._stream.truncate(0)
            self._stream.close()
            self._stream = None
