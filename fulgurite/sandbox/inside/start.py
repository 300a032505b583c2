"""The first process inside a sandbox: enters namespaces if told, starts the role's process, watches over it and reports
how it ended.

It reads one configuration from its control socket and keeps that socket; the role's process never has it. When the
partner at the other end closes the socket or dies, this process ends, and with it everything in its process space.
"""

import json
import os
import signal
import struct
import sys
from typing import Any

from . import watching
from .guards import confine, namespaces, system

__all__ = ["main", "read_frame", "report"]


def read_frame(fd: int) -> dict[str, Any]:
    """One JSON object, after four bytes of its length."""

    def read(count: int) -> bytes:
        parts = b""
        while len(parts) < count:
            part = os.read(fd, count - len(parts))
            if not part:
                os._exit(0)
            parts += part
        return parts

    return json.loads(read(struct.unpack(">I", read(4))[0]))


def report(fd: int, **what: Any) -> None:
    """One line of JSON to the control socket."""
    try:
        os.write(fd, json.dumps(what).encode() + b"\n")
    except OSError:
        os._exit(0)


def _role(config: dict[str, Any], control: int) -> None:
    """In the forked process: confine it and run its role; never returns."""
    try:
        os.close(control)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        if config["role"] == "judge":
            from . import judge as role
        elif config["role"] == "candidate":
            from . import candidate as role  # type: ignore[no-redef]
        elif config["role"] == "workspace":
            from . import workspace as role  # type: ignore[no-redef]
        else:
            from . import commands as role  # type: ignore[no-redef]
        folder = "/tmp" if config["own_root"] else config["folder"]
        os.chdir(folder)
        for name in ("HOME", "TMPDIR"):
            os.environ[name] = config["environment"][name] = folder
        confine.confine(config, config["limits"])
        system.prctl(
            system.PR_SET_DUMPABLE, 0 if config["role"] == "judge" and "dumpable" not in config["without"] else 1
        )
        role.main(config)
    except BaseException as error:
        os.write(2, f"sandbox: {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
        os._exit(125)
    os._exit(0)


def main(control: int) -> None:
    """Run as ``python -I -S -c "…main(fd)"``."""
    config = read_frame(control)
    config["control"] = control
    try:
        if config["enter"]:
            namespaces.enter(config)
            sys.path[0] = config["bundle"]
            for name in (__package__, f"{__package__}.guards"):
                sys.modules[name].__path__ = [f"{config['bundle']}/{name.replace('.', '/')}"]
        if not config["own_processes"]:
            system.prctl(system.PR_SET_CHILD_SUBREAPER, 1)
        if "dumpable" not in config["without"]:
            system.prctl(system.PR_SET_DUMPABLE, 0)
    except OSError as error:
        report(control, broken=str(error))
        sys.exit(1)
    child = os.fork()
    if child == 0:
        _role(config, control)
    for fd in config["fds"].values():
        os.close(fd)
    report(control, **watching.watch(child, control, config))
    watching.end_all(config)
    os._exit(0)
