"""The judge's process: runs the test, with the candidate's functions as proxies, and writes the verdict. The
candidate's process has no way to this one but the line of typed values.

Which names of the test mean the candidate's things: the entry point, and names that the test uses but neither it, its
helpers nor ``builtins`` define. A program that defines ``abs`` or ``poly`` anew therefore does not change what the test
computes.
"""

import ast
import builtins
import importlib
import json
import os
import sys
import types
from typing import Any

from .asserts import Notes, show
from .peer import Peer
from .remote import Remote, Unsupported

__all__ = ["TEST", "main"]

TEST = "<test>"
_TEXT = 2000


class _Judge:
    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.notes = Notes()
        self.refused: list[str] = []
        self.calls = 0
        self.last_call = ""
        self.taken: list[str] = []
        self.stage = "loading"
        self.peer = Peer(config["fds"]["channel"], self._perform, _describe, self._refuse, callable)

    def _perform(self, operation: str, target: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The candidate may call what the test has given it, nothing else."""
        if operation != "call" or not any(target is item for item in self.peer.given):
            raise self.peer.lose(f"the candidate asked for {operation!r}")
        return target(*args, **kwargs)

    def _refuse(self, text: str) -> Exception:
        self.refused.append(text)
        return Unsupported(text)

    def _counted(self, name: str, target: Remote) -> Any:
        """A function that calls the candidate's and remembers the call."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            shown = [show(item, 200) for item in args] + [f"{key}={show(item, 200)}" for key, item in kwargs.items()]
            self.last_call = f"{name}({', '.join(shown)})"[:_TEXT]
            return self.peer.request("call", target, "", args, kwargs)

        call.__name__ = call.__qualname__ = name if name.isidentifier() else "candidate"
        return call

    def _value(self, name: str) -> Any:
        value = self.peer.request("global", None, name)
        if isinstance(value, Remote):
            return self._counted(name, value)
        self.calls += 1
        return value

    def run(self) -> dict[str, Any]:
        """The verdict on the program: a record with ``status`` and, for all but passed, what went wrong."""
        try:
            self._run()
        except _Broken as broken:
            return {"status": "error", "detail": str(broken)}
        except BaseException as error:
            if self.peer.lost:
                return {"status": "lost" if self.peer.gone else "nonsense", "detail": self.peer.lost}
            if self.refused:
                return {"status": "unsupported", "detail": self.refused[0], **self._failure(error)}
            return {"status": "failed", **self._failure(error)}
        if self.peer.lost:  # also where the test swallowed the exception
            return {"status": "lost" if self.peer.gone else "nonsense", "detail": self.peer.lost}
        if self.refused:
            return {"status": "unsupported", "detail": self.refused[0]}
        return {"status": "passed" if self.calls else "untested"}

    def _run(self) -> None:
        names = self.peer.request("load")
        if type(names) is not dict or not all(type(k) is str and type(v) is str for k, v in names.items()):
            raise self.peer.lose("no list of names")
        self.stage = "testing"
        space: dict[str, Any] = {"__name__": "test", "__builtins__": builtins}
        helpers, test = self.config["helpers"], self.config["test"]
        _run_in(space, _parse(helpers, "helpers"), "<helpers>")
        tree = _parse(test, "test")
        entry = self.config["entry_point"]
        candidate = self._value(entry) if entry in names else None
        for name in self._wanted(tree, names, space):
            space[name] = self._bound(name, names, tree)
        space.pop(entry, None)  # the helpers may hold a function of this name without a body
        if candidate is not None:
            space[entry] = candidate
            self.taken.append(entry)
        self.notes.visit(tree)
        space.update(self.notes.names())
        exec(compile(tree, TEST, "exec", dont_inherit=True), space)
        check = space.get("check")
        if isinstance(check, types.FunctionType) and check.__code__.co_filename == TEST and not _calls(tree, "check"):
            if candidate is None:
                raise NameError(f"name {entry!r} is not defined")
            check(candidate)

    def _wanted(self, tree: ast.Module, names: dict[str, str], space: dict[str, Any]) -> list[str]:
        """The names of the test that are the candidate's."""
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        open_names = sorted(used & names.keys() - space.keys() - {self.config["entry_point"]})
        foreign = [name for name in open_names if not hasattr(builtins, name)]
        if foreign or self.config["entry_point"]:
            return foreign
        return [name for name in open_names if _calls(tree, name)]  # the function under test is called `sum`

    def _bound(self, name: str, names: dict[str, str], tree: ast.Module) -> Any:
        """The value of a name that the test does not define: the real module where it means one, else the candidate's
        thing.
        """
        said = names[name].removeprefix("module:") if names[name].startswith("module:") else name
        if (said in sys.stdlib_module_names or said == "numpy") and not _calls(tree, name):
            return importlib.import_module(said)
        self.taken.append(name)
        return self._value(name)

    def _failure(self, error: BaseException) -> dict[str, Any]:
        """What the repair loop needs of a failure."""
        found: dict[str, Any] = {"type": type(error).__name__[:100], "message": _text(error), "stage": self.stage}
        told = error.__dict__.get("_of_the_candidate")
        if told:
            found["type"], found["message"] = told[0][:100], told[1][:_TEXT]
            line, source = told[2], told[3]
            found["program_line"] = line if type(line) is int else None
            found["program_source"] = source[:_TEXT] if type(source) is str else ""
        line = _line(error)
        if line:
            first, last = self.notes.span(line)
            text = self.config["test"].splitlines()[first - 1 : last]
            found["line"], found["source"] = first, "\n".join(part.strip() for part in text)[:_TEXT]
            if isinstance(error, AssertionError) and not told:
                found["actual"], found["expected"] = self.notes.compared(line)
        found["call"] = self.last_call
        return found


class _Broken(Exception):
    """The test itself cannot be used."""


def _parse(text: str, what: str) -> ast.Module:
    try:
        return ast.parse(text, f"<{what}>")
    except (SyntaxError, ValueError) as error:
        raise _Broken(f"the {what} cannot be read: {error}") from None


def _run_in(space: dict[str, Any], tree: ast.Module, name: str) -> None:
    try:
        exec(compile(tree, name, "exec", dont_inherit=True), space)
    except Exception as error:
        raise _Broken(f"the helpers fail with {type(error).__name__}: {error}") from None


def _calls(tree: ast.Module, name: str) -> bool:
    """Whether a statement outside functions calls ``name``."""
    outside = [node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    found = (node.func for part in outside for node in ast.walk(part) if isinstance(node, ast.Call))
    return any(isinstance(function, ast.Name) and function.id == name for function in found)


def _line(error: BaseException) -> int | None:
    line, at = None, error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == TEST:
            line = at.tb_lineno
        at = at.tb_next
    return line


def _text(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT]
    except Exception:
        return ""


def _describe(error: BaseException) -> tuple[Any, ...]:
    """An exception of the test's own function, for the candidate that called it."""
    return type(error).__name__, (), None, _text(error), None, ""


def main(config: dict[str, Any]) -> None:
    """Judge, write the verdict to its own pipe, end."""
    sys.path += config["packages"]
    judge = _Judge(config)
    verdict = judge.run()
    verdict["calls"], verdict["names"] = judge.calls, judge.taken
    data = memoryview(json.dumps(verdict).encode() + b"\n")
    while data:
        data = data[os.write(config["fds"]["verdict"], data) :]
    os._exit(0)
