"""Own namespaces, entered by the sandbox's first process itself: for machines without bubblewrap."""

import os

from .base import Layer, Start, other_user

__all__ = ["Namespaces"]


class Namespaces(Layer):
    """The same views, processes and network as with bubblewrap, by system calls from Python
    (:mod:`fulgurite.sandbox.inside.namespaces`).
    """

    name = "namespaces"
    isolates = True

    def start(self, control: int, disk: int, files: int, binds: list[tuple[str, str]]) -> Start:
        system, links = self._system_binds()
        shown = [*system, (self.interpreter.bundle, "/sandbox"), *binds]
        if not self.interpreter.executable.startswith("/usr/"):
            shown.append((self.interpreter.prefix, self.interpreter.prefix))
        if self.interpreter.packages:
            shown.append((self.interpreter.packages, "/packages"))
        packages = ["/packages"] if self.interpreter.packages else []
        config = self._config(other_user(), enter=True, bundle="/sandbox", packages=packages)
        config |= {
            "python": self.interpreter.executable,
            "root": f"{self.interpreter.bundle}/root",
            "binds": shown,
            "links": links,
        }
        if "mounts" in self.without:
            config |= {"own_root": False, "folder": "/tmp", "bundle": self.interpreter.bundle}
        command = self.interpreter.command(
            os.path.realpath(self.interpreter.executable), self.interpreter.bundle, control
        )
        return Start(command, config)
