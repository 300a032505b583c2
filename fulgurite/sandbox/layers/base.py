"""What a layer is: it turns a wish to run the sandbox's first process into a command, and says what it protects."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .interpreter import Interpreter

__all__ = ["ENVIRONMENT", "Layer", "Start", "other_user"]


ENVIRONMENT = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "HOME": "/tmp",
    "TMPDIR": "/tmp",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True)
class Start:
    """How to start one sandbox.

    Args:
        command: the command line; it ends with the first process's own.
        config: what that process must know of the layer.
    """

    command: list[str]
    config: dict[str, Any] = field(default_factory=dict)


class Layer:
    """One way to start a sandbox.

    Args:
        interpreter: the Python that judges and candidates run on.
        without: measures that are switched off; for the tests that show that each one is needed.
    """

    name = ""
    isolates = False  # files, processes and network of the machine are out of reach

    def __init__(self, interpreter: Interpreter, without: frozenset[str] = frozenset()) -> None:
        self.interpreter = interpreter
        self.without = without

    def start(self, control: int, disk: int, files: int, binds: list[tuple[str, str]]) -> Start:
        """The command and configuration of one sandbox.

        Args:
            control: file descriptor of the control socket.
            disk: bytes of the private /tmp.
            files: number of files in it.
            binds: further (outside, inside) paths that are shown read-only.
        """
        raise NotImplementedError

    def warning(self) -> str:
        """What a user must know before trusting this layer; the empty text if nothing."""
        return ""

    def _config(self, uid: int | None, **what: Any) -> dict[str, Any]:
        return {"enter": False, "own_root": True, "own_processes": True, "own_user": True, "uid": uid, **what}

    def _system_binds(self) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        """Folders of the system that programs need, and links as (path, target)."""
        binds, links = [("/usr", "/usr")], []
        for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
            if os.path.islink(name):
                links.append((name, os.readlink(name)))
            elif os.path.isdir(name):
                binds.append((name, name))
        for name in ("/etc/ld.so.cache", "/etc/alternatives", "/etc/localtime", *map(str, Path("/etc").glob("java*"))):
            if os.path.exists(name):
                binds.append((os.path.realpath(name) if name == "/etc/localtime" else name, name))
        return binds, links


def other_user() -> int | None:
    """A user number that nobody else has, for a process started by root; None where the user cannot be changed."""
    if os.geteuid() != 0:
        return None
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]
    first, _, count = max(ranges, key=lambda part: part[2])
    low, high = (10**9, 2 * 10**9) if first + count > 2 * 10**9 else (first + count // 2, first + count - 1)
    if high - low < 1000:
        return None
    return low + secrets.randbelow(high - low)
