"""A process that has imported the heavy packages and forks a child per request: `python server.py FD MODULE...`.

FD is a Unix socket. A request is one JSON object with four file descriptors: the child's standard input, output and error, and
a pipe that first gets the child's process id, then its status. The child begins as Python would: its environment, its folder,
its arguments, the usual signal handlers, and no other file descriptor.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from typing import Any

MOST = 4_000_000  # bytes of a request


def _start(request: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # also where the tests were started under nohup
        signal.signal(number, signal.SIG_DFL)
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        errors = "backslashreplace" if number == 2 else "strict"
        stream = open(number, mode, 1, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    words = request["words"]
    paths = [path for path in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = paths
    if words[0] == "-m":
        sys.path.insert(0, request["folder"])
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__", "__builtins__": __builtins__})
    else:
        sys.path.insert(0, os.path.dirname(words[0]))
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def _finish() -> None:
    """What Python does at its end: threads are waited for, then functions registered for the exit run."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()


def _child(request: dict[str, Any]) -> None:
    """Runs the program and ends as Python would; never returns."""
    code = 0
    try:
        try:
            _start(request)
        except SystemExit as left:
            if isinstance(left.code, str):
                print(left.code, file=sys.stderr)
            code = left.code if isinstance(left.code, int) else int(left.code is not None)
        _finish()
    except KeyboardInterrupt:
        traceback.print_exc()
        _finish()
        sys.stderr.flush()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _serve(request: dict[str, Any], fds: list[int], connection: socket.socket) -> None:
    """In a forked keeper: forks the child, tells its number, waits for it, tells its status."""
    connection.close()
    status = fds[3]
    os.set_inheritable(status, False)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    number = os.fork()
    if number == 0:
        for place in range(3):
            os.dup2(fds[place], place)
        for fd in fds:
            os.close(fd)
        _child(request)
    for fd in fds[:3]:
        os.close(fd)
    for place in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), place)
    for sent in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sent, signal.SIG_IGN)
    os.write(status, f"{number}\n".encode())
    _, code = os.waitpid(number, 0)
    os.write(status, f"{os.waitstatus_to_exitcode(code)}\n".encode())
    os._exit(0)


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    for name in sys.argv[2:]:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork beside other threads is unsafe"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # keepers are not waited for
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        data, fds, _, _ = socket.recv_fds(connection, MOST, 4)
        if not data:
            return
        if os.fork() == 0:
            try:
                _serve(json.loads(data), fds, connection)
            finally:
                os._exit(1)
        for fd in fds:
            os.close(fd)


if __name__ == "__main__":
    main()
