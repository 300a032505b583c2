"""The process of a workspace: runs commands, writes and reads files, one after the other, over the same private files.

Files are opened in here, so that a link that a program made leads to nothing outside. Like the process that runs programs
as commands (:mod:`.commands`) it cannot be read or traced by them, and its socket is closed in every child.
"""

import contextlib
import errno
import os
import select
import signal
import stat
import time
from typing import Any

from . import frames
from .commands import clear, unnamed
from .guards import confine, system

__all__ = ["main"]

_EVERY = 0.05  # seconds between two looks at how much a command has printed


def main(config: dict[str, Any]) -> None:
    """Answer what is asked until the socket is closed."""
    system.prctl(system.PR_SET_DUMPABLE, 0)
    channel = config["fds"]["channel"]
    os.set_inheritable(channel, False)
    folder = os.path.dirname(config["python"])
    environment = config["environment"]
    if folder not in environment["PATH"].split(":"):
        environment["PATH"] = f"{folder}:{environment['PATH']}"
    if config["packages"]:
        environment["PYTHONPATH"] = ":".join(config["packages"])
    while True:
        try:
            asked, given = frames.receive(channel, config["most"])
        except EOFError:
            os._exit(0)
        if asked["what"] == "stop":  # for a command that has ended by now
            continue
        try:
            told, data = _DOES[asked["what"]](asked, given, config)
        except OSError as error:
            told, data = {"errno": error.errno, "why": error.strerror}, b""
        except ValueError as error:  # a zero byte in a name
            told, data = {"errno": errno.EINVAL, "why": str(error)}, b""
        frames.send(channel, told, data)


def _write(asked: dict[str, Any], given: bytes, config: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    path = asked["path"]
    folder = os.path.dirname(path)
    if folder:
        os.makedirs(folder, exist_ok=True)
    fd = _opened(path, os.O_WRONLY | os.O_CREAT)
    try:
        os.ftruncate(fd, 0)
        left = memoryview(given)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)
    return {}, b""


def _read(asked: dict[str, Any], given: bytes, config: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """One byte more than allowed shows that a file is too large; no more of it is sent."""
    fd = _opened(asked["path"], os.O_RDONLY)
    with open(fd, "rb", buffering=0) as file:
        data = b""
        while len(data) <= asked["most"] and (part := file.read(asked["most"] + 1 - len(data))):
            data += part
    return ({"cut": True}, b"") if len(data) > asked["most"] else ({"cut": False}, data)


def _opened(path: str, how: int) -> int:
    """A file that is one; a pipe would never end, and a device has no size."""
    fd = os.open(path, how | os.O_NONBLOCK | os.O_NOCTTY, 0o600)
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        return fd
    os.close(fd)
    number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
    raise OSError(number, os.strerror(number))


def _run(asked: dict[str, Any], given: bytes, config: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """One command; how it ended and what it printed, from the beginning."""
    streams = [unnamed(given), unnamed(), unnamed()]
    failed, failing = os.pipe()
    try:
        child = os.fork()
        if child == 0:
            _become(asked, streams, failing, config)
        os.close(failing)
        failing = -1
        handle = os.pidfd_open(child)
        ended = _wait(handle, config["fds"]["channel"], streams[1:], asked)
        if ended:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(handle)
        clear(child, config)
        why = os.read(failed, 16)
        if why:
            number = int(why)
            return {"unstarted": number, "why": os.strerror(number)}, b""
        texts = [os.pread(fd, asked["most"], 0) for fd in streams[1:]]
        cut = any(os.fstat(fd).st_size > asked["most"] for fd in streams[1:])
        code = os.waitstatus_to_exitcode(status)
        return {"code": code, "ended": ended, "cut": cut, "out": len(texts[0])}, texts[0] + texts[1]
    finally:
        for fd in (*streams, failed, *([failing] if failing >= 0 else [])):
            os.close(fd)


def _wait(handle: int, channel: int, printed: list[int], asked: dict[str, Any]) -> str:
    """Wait for a command's end; why it has to be ended, the empty text if it ended by itself."""
    deadline = None if asked["seconds"] is None else time.monotonic() + asked["seconds"]
    while True:
        left = _EVERY if deadline is None else min(_EVERY, deadline - time.monotonic())
        ready, _, _ = select.select([handle, channel], [], [], max(left, 0))
        if handle in ready:
            return ""
        if channel in ready:  # nothing but a stop is sent meanwhile, or the socket is closed
            with contextlib.suppress(EOFError):
                frames.receive(channel, 0)
            return "stopped"
        if deadline is not None and time.monotonic() >= deadline:
            return "timeout"
        if any(os.fstat(fd).st_size > asked["most"] for fd in printed):
            return "output"


def _become(asked: dict[str, Any], streams: list[int], failing: int, config: dict[str, Any]) -> None:
    """In the forked process: become the command."""
    try:
        os.setpgid(0, 0)  # a group of its own, which can be killed whole
        os.chdir(asked["cwd"])
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        confine.set_limits(config["steps"], set(config["without"]))
        os.execvpe(asked["command"][0], asked["command"], {**config["environment"], **asked["env"]})
    except OSError as error:
        os.write(failing, str(error.errno).encode())
    except ValueError:  # a zero byte, or an equals sign in a variable's name
        os.write(failing, str(errno.EINVAL).encode())
    finally:
        os._exit(127)


_DOES = {"write": _write, "read": _read, "run": _run}
