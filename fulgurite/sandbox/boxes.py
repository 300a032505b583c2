"""One sandboxed process as seen from outside: started, given its configuration, watched through its control socket,
ended for certain.
"""

import contextlib
import json
import os
import shutil
import socket
import struct
import subprocess
from typing import Any

from .layers import Layer
from .layers.base import ENVIRONMENT
from .limits import Limits
from .results import SandboxError

__all__ = ["Box", "captured"]

_GRACE = 5.0  # seconds that the first process has to end by itself


class Box:
    """A started sandbox.

    Args:
        layer: how to start it.
        limits: what its process may use.
        role: "candidate", "judge" or "commands", with the role's own configuration.
        fds: file descriptors that its process gets, by the name it knows them under.
        out: where its standard output goes.
        err: where its standard error goes.
        binds: further (outside, inside) paths, shown read-only.
    """

    def __init__(
        self,
        layer: Layer,
        limits: Limits,
        role: dict[str, Any],
        fds: dict[str, int],
        out: int,
        err: int,
        binds: list[tuple[str, str]] | None = None,
    ) -> None:
        self.control, theirs = socket.socketpair()
        self.ended: dict[str, Any] | None = None
        self._heard = b""
        start = layer.start(theirs.fileno(), limits.disk, limits.files, binds or [])
        self.folder = start.config.get("folder")
        config = {
            "limits": limits.of_process(),
            "files": limits.files,
            "disk": limits.disk,
            "without": sorted(layer.without),
            "environment": ENVIRONMENT,
            "setup": "",
            "helpers": "",
            "fds": fds,
            **start.config,
            **role,
        }
        data = json.dumps(config).encode()
        try:
            self.process = subprocess.Popen(
                start.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=ENVIRONMENT,
                cwd="/",
                pass_fds=[theirs.fileno(), *fds.values()],
                start_new_session=True,
            )
        finally:
            theirs.close()
        self.control.settimeout(limits.seconds)
        with contextlib.suppress(OSError):  # it has ended already: its own error text says why
            self.control.sendall(struct.pack(">I", len(data)) + data)

    def hear(self) -> None:
        """Read the control socket once; afterwards :attr:`ended` holds the process's end, if that is what came."""
        try:
            part = self.control.recv(65536)
        except OSError:
            part = b""
        self._heard += part
        if b"\n" in self._heard:
            self.ended = json.loads(self._heard.partition(b"\n")[0])
        elif not part:
            self.ended = {"broken": "the sandbox's first process ended without a report"}

    def end(self) -> None:
        """End the sandbox: closing the control socket makes its first process end, and all others with it."""
        self.control.close()
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.folder and os.path.basename(self.folder).startswith("run-"):
            shutil.rmtree(self.folder, ignore_errors=True)


def captured(name: str) -> int:
    """A file in memory for a process's output; how large it can grow is the process's limit on file sizes."""
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError as error:
        raise SandboxError(f"Box: no memory file for a program's output ({error})") from None
