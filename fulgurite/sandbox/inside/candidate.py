"""The candidate's process: loads the program and does what the judge asks. It knows neither tests nor expected values,
and has no say in the verdict: whatever the program does to this interpreter, the judge sees typed values or nothing.
"""

import builtins
import contextlib
import linecache
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from .peer import Lost, Peer
from .remote import Unsupported

__all__ = ["PROGRAM", "main"]

PROGRAM = "<program>"
_TEXT = 2000  # characters of an exception's message


class _Candidate:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.module = types.ModuleType("candidate")
        self.names = self.module.__dict__
        sys.modules["candidate"] = self.module

    def perform(self, operation: str, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self._perform(operation, target, name, args, kwargs)
        finally:
            with contextlib.suppress(BaseException):  # a full or broken output was the program's affair when it wrote
                sys.stdout.flush()

    def _perform(self, operation: str, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if operation == "call":
            return target(*args, **kwargs)
        if operation == "global":
            return self.names[name]
        if operation == "get":
            return getattr(target, name)
        if operation == "set":
            return setattr(target, name, *args)
        if operation == "item":
            return target[args[0]]
        if operation == "set item":
            target[args[0]] = args[1]
            return None
        if operation == "next":
            try:
                return False, next(target)
            except StopIteration:
                return True, None
        if operation == "iter":
            return _Iterator(iter(target))
        simple: dict[str, Callable[[Any], Any]] = {"len": len, "bool": bool, "str": str, "load": self._load}
        return simple[operation](target)

    def _load(self, _: Any) -> dict[str, str]:
        """Run the program; its names, each with ``module:NAME``, ``callable`` or ``value``."""
        for part in (self.config["setup"], self.config["program"]):
            lines = part.splitlines(keepends=True)
            linecache.cache[PROGRAM] = (len(part), None, lines, PROGRAM)
            exec(compile(part, PROGRAM, "exec", dont_inherit=True), self.names)
        found = {}
        for name, value in list(self.names.items()):
            if type(name) is str and name != "__builtins__":
                kind = "callable" if callable(value) else "value"
                found[name] = f"module:{value.__name__}" if type(value) is types.ModuleType else kind
        return found


class _Iterator:
    """An iterator as a handle: without it an iterator of a plain kind would be sent by value."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __iter__(self) -> "_Iterator":
        return self

    def __next__(self) -> Any:
        return next(self.held)


def _describe(error: BaseException) -> tuple[Any, ...]:
    """An exception as :func:`.remote.remote_error` reads it."""
    names = []
    for cls in type(error).__mro__[1:]:
        if getattr(builtins, cls.__name__, None) is cls:
            names.append(cls.__name__)
    try:
        text = str(error)[:_TEXT]
    except BaseException:
        text = ""
    plain = (str, int, float, bool, type(None))
    small = all(type(item) in plain and not (type(item) is str and len(item) > _TEXT) for item in error.args)
    args = error.args if small and len(error.args) < 10 else None
    line, source = _place(error)
    return type(error).__name__, tuple(names), args, text, line, source


def _place(error: BaseException) -> tuple[int | None, str]:
    """Line number and text of the program's last line that the exception passed."""
    line, source = None, ""
    if isinstance(error, SyntaxError) and error.filename == PROGRAM:
        line, source = error.lineno, (error.text or "").strip()
    at = error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == PROGRAM:
            line = at.tb_lineno
        at = at.tb_next
    if line and not source:
        source = linecache.getline(PROGRAM, line).strip()
    return line, source[:_TEXT]


def _hang_up(channel: int) -> None:
    """In a forked child: the line stays its parent's, so that no child answers in the place of a parent that has exited."""
    reading, writing = os.pipe()
    os.close(writing)
    os.dup2(reading, channel, inheritable=False)  # ends at once; the number is not free for a file of the program's
    os.close(reading)


def main(config: dict[str, Any]) -> None:
    """Serve the judge until it hangs up."""
    candidate = _Candidate(config)
    sys.path += config["packages"]

    def refuse(text: str) -> Exception:
        return Unsupported(text)

    channel = config["fds"]["channel"]
    os.register_at_fork(after_in_child=lambda: _hang_up(channel))
    peer = Peer(channel, candidate.perform, _describe, refuse, lambda item: True)
    try:
        while True:
            peer.serve(peer.receive())
    except Lost:
        os._exit(0)
