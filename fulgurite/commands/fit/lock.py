"""One fit per run folder at a time: two would mix their metrics and overwrite each other's checkpoints without a word."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from filelock import FileLock, Timeout

from fulgurite.console import shortest
from fulgurite.whole_files import scratch_folder, write_text

__all__ = ["RunLock"]


class RunLock:
    """Holds a run folder for this process; the system lets go of it when the process ends, however it ends.

    The lock itself is `.lock`. Who holds it stands in `.lock.owner`, because a locked file cannot be read on Windows, and
    older versions of filelock empty the file when somebody asks for the lock.
    """

    def __init__(self) -> None:
        self._lock: FileLock | None = None
        self._owner = Path()

    def take(self, folder: Path) -> None:
        """Take the folder, or keep it if it is held already.

        Args:
            folder: of the run.

        Raises:
            ValueError: another process holds it.
            OSError: the folder cannot be written.
        """
        if self._lock is not None:
            return
        owner = folder / ".lock.owner"
        lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
        _try_to_write(folder)
        try:
            lock.acquire()
        except Timeout:
            holder = "another process"
            with contextlib.suppress(OSError):
                holder = owner.read_text(encoding="utf-8").strip() or holder
            raise ValueError(
                f"fit: {holder} is training in {shortest(folder)}; two runs would overwrite each other's checkpoints. Wait for it, "
                "or give --trainer.default_root_dir another folder."
            ) from None
        except (OSError, NotImplementedError):  # a file system without locks
            return
        write_text(owner, f"process {os.getpid()}")
        self._lock, self._owner = lock, owner

    def release(self) -> None:
        """Let go of the folder."""
        if self._lock is not None:
            self._owner.unlink(missing_ok=True)
            self._lock.release()
            self._lock = None


def _try_to_write(folder: Path) -> None:
    """Makes a folder and tries whether a file can be written there; an OSError says so in one sentence."""
    with scratch_folder(
        folder / "checkpoint", "the run", "give --trainer.default_root_dir a folder that can be written"
    ):
        pass
