"""Work in a forked process that gets kill -9 as soon as a file has grown to a size."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

__all__ = ["killed_at", "size_of"]


def size_of(path: Path) -> int:
    """Bytes of a file; 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def killed_at(work: Callable[[], object], file: Path, size: int) -> None:
    """Starts the work in a process of its own and kills it when the file has so many bytes; fails if it ended before."""
    child = os.fork()
    if child == 0:
        # The lock of progress bars is shared with all forked processes: one that is killed while it holds it would stop the others.
        tqdm.set_lock(threading.RLock())
        try:
            work()
        finally:
            os._exit(0)
    while size_of(file) < size and os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), f"the work was over before {file.name} had {size} bytes"
