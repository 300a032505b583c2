"""``popen`` and ``run`` for Python programs, as subprocess has them, that are forked from a process with the heavy imports done.

Starting Python with torch, Lightning and transformers costs seconds; a fork costs a few hundredths. One such process is made per
test process and per value of the variables that packages read while they are imported. Tests of what importing itself does, and
of Python's own start, use subprocess.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
READ_ON_IMPORT = {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
MODULES = ("numpy", "torch", "torch._dynamo", "torch.distributed", "lightning.pytorch", "torchmetrics", "transformers",
           "fulgurite.datamodules", "fulgurite.lightning_modules", "fulgurite.commands")  # fmt: skip
_servers: dict[tuple[str, ...], tuple[socket.socket, subprocess.Popen[bytes]]] = {}
_lock = threading.Lock()


class Forked:
    """A started program. ``pid``, ``returncode``, ``poll``, ``wait``, ``send_signal`` and ``kill`` as subprocess.Popen has them."""

    def __init__(self, pid: int, status: int, words: list[str]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.args = words
        self._status = status

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code; raises subprocess.TimeoutExpired."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal unless it has ended."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            line = _line(self._status)
            os.close(self._status)
            if not line:
                raise RuntimeError(f"no status of {self.args}: the process that waits for it was killed")
            self.returncode = int(line)
        return self.returncode


def popen(
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    stdout: IO[Any] | int | None = None,
    stderr: IO[Any] | int | None = None,
) -> Forked:
    """Start ``python WORDS``: a script, ``-m MODULE`` or ``-c CODE`` with its arguments.

    Args:
        words: what follows ``python`` on a command line.
        env: the whole environment; None: this process's.
        cwd: its folder; None: this process's.
        stdout: a file, a descriptor or subprocess.DEVNULL; None: this process's.
        stderr: as ``stdout``.
    """
    environment = dict(os.environ if env is None else env)
    request = {
        "words": [str(word) for word in words],
        "environment": environment,
        "folder": os.path.abspath(cwd or os.getcwd()),
    }
    reading, writing = os.pipe()
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        fds = [nothing, *(_descriptor(stream, nothing, own) for stream, own in ((stdout, 1), (stderr, 2))), writing]
        with _lock:
            socket.send_fds(_server(environment), [json.dumps(request).encode()], fds)
    finally:
        os.close(writing)
        os.close(nothing)
    line = _line(reading)
    if not line:
        raise RuntimeError("the process that forks programs for tests has ended")
    return Forked(int(line), reading, request["words"])


def run(
    words: Sequence[str],
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    timeout: float = 300,
    check: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Run ``python WORDS`` to its end; its outputs as text. For the arguments see :func:`popen`.

    Args:
        timeout: seconds, after which it is killed and subprocess.TimeoutExpired raised.
        check: whether an exit code other than 0 is raised as AssertionError with both outputs.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        running = popen(words, env, cwd, out, err)
        try:
            code = running.wait(timeout)
        finally:
            running.kill()
        texts = [
            os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace") for file in (out, err)
        ]
    if check:
        assert code == 0, f"exit code {code} of {running.args}\n{texts[0]}\n{texts[1]}"
    return subprocess.CompletedProcess(running.args, code, *texts)


def _descriptor(stream: IO[Any] | int | None, nothing: int, own: int) -> int:
    if stream is None:
        return own
    if isinstance(stream, int):
        return nothing if stream == subprocess.DEVNULL else stream
    return stream.fileno()


def _line(fd: int) -> str:
    found = b""
    while not found.endswith(b"\n"):
        part = os.read(fd, 1)
        if not part:
            return ""
        found += part
    return found.decode()


def _server(environment: Mapping[str, str]) -> socket.socket:
    key = tuple(environment.get(name, value) for name, value in READ_ON_IMPORT.items())
    if key in _servers and _servers[key][1].poll() is None:
        return _servers[key][0]
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    settings = dict(zip(READ_ON_IMPORT, key, strict=True))
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("server.py")), str(theirs.fileno()), *MODULES],
        env={**os.environ, **settings, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false"},
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
    )
    theirs.close()
    _servers[key] = ours, process
    return ours


@atexit.register
def _end() -> None:
    for ours, process in _servers.values():
        ours.close()
        deadline = time.monotonic() + 5
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
