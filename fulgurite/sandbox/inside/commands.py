"""Runs a program of any language as commands: compile steps, then one run per input. Output goes back; it is compared
outside.

The process that runs this is not the program: it cannot be read or traced by it, and the pipe for the report is closed
in every child.
"""

import base64
import contextlib
import json
import os
import select
import signal
import sys
import time
from typing import Any

from .guards import confine, system

__all__ = ["clear", "main", "unnamed"]


def main(config: dict[str, Any]) -> None:
    """Write the files, run the steps until one fails, report all of them."""
    system.prctl(system.PR_SET_DUMPABLE, 0)
    for fd in config["fds"].values():
        os.set_inheritable(fd, False)
    for name, text in config["sources"].items():
        with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
            file.write(text)
    if config["packages"]:
        config["environment"]["PYTHONPATH"] = ":".join(config["packages"])
    done = []
    for step in config["steps"]:
        done.append(_run(step, config))
        if done[-1]["code"] != 0 and step["must"]:
            break
    data = memoryview(json.dumps({"steps": done}).encode() + b"\n")
    while data:
        data = data[os.write(config["fds"]["verdict"], data) :]
    os._exit(0)


def unnamed(text: bytes = b"") -> int:
    """A file without a name; it is gone with the last process that has it open."""
    name = f"stream-{os.urandom(8).hex()}"
    fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    os.unlink(name)
    left = memoryview(text)
    while left:  # one write may take a part only, and the next one says that there is no room
        left = left[os.write(fd, left) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _run(step: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """One command with its own limits; how it ended and the ends of its outputs."""
    streams = [unnamed(step["input"].encode("utf-8", "surrogatepass")), unnamed(), unnamed()]
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        _become(step, streams, config)
    handle = os.pidfd_open(child)
    ready, _, _ = select.select([handle], [], [], step["seconds"])
    if not ready:
        os.killpg(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - begun
    clear(child, config)
    os.close(handle)
    texts = [_tail(fd, step["output"]) for fd in streams[1:]]
    for fd in streams:
        os.close(fd)
    code = os.waitstatus_to_exitcode(status)
    return {"code": code, "timeout": not ready, "seconds": seconds, "out": texts[0], "err": texts[1]}


def _become(step: dict[str, Any], streams: list[int], config: dict[str, Any]) -> None:
    """In the forked process: become the command."""
    try:
        os.setpgid(0, 0)  # a group of its own, which can be killed whole
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        confine.set_limits(step["limits"], set(config["without"]))
        first = step["command"][0].replace("{python}", config["python"])
        os.execve(first, [first, *step["command"][1:]], config["environment"])
    except BaseException as error:
        os.write(2, f"sandbox: {step['command'][0]}: {error}\n".encode())
    os._exit(126)


def clear(child: int, config: dict[str, Any]) -> None:
    """Kill what the command left behind, so that one run cannot disturb the next."""
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    if config["own_processes"]:
        with contextlib.suppress(OSError):  # everything of this process space but its first process and this one
            os.kill(-1, signal.SIGKILL)


def _tail(fd: int, most: int) -> str:
    """The last bytes of a file, as base64."""
    size = os.fstat(fd).st_size
    data = os.pread(fd, min(most, size), max(0, size - most))
    return base64.b64encode(data).decode()


if sys.platform != "linux":
    raise ImportError("fulgurite.sandbox runs on Linux only")
