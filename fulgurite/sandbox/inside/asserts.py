"""Remembers what an assert compared: every `assert A == B` of a test also notes A and B, which the repair loop wants to
know.

The test is changed as a syntax tree: ``assert A == B`` becomes ``assert __left__(k, A) == __right__(k, B)`` and
``assert A`` becomes ``assert __truth__(k, A)``, with k the number of the assert. The noting functions return what they
are given, so the test means the same.
"""

import ast
from collections import deque
from typing import Any

__all__ = ["Notes", "show"]

_OPERATORS = {
    ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Is: "is", ast.IsNot: "is not",
    ast.In: "in", ast.NotIn: "not in",
}  # fmt: skip
_NOTHING = object()


class Notes(ast.NodeTransformer):
    """Changes a test's tree and keeps what its last assert compared."""

    def __init__(self) -> None:
        self.asserts: list[tuple[int, int, str]] = []  # first and last line, operator
        self.number, self.left, self.right = -1, _NOTHING, _NOTHING

    def names(self) -> dict[str, Any]:
        """The noting functions, for the test's namespace."""
        return {"__left__": self._note_left, "__right__": self._note_right, "__truth__": self._note_truth}

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        number = len(self.asserts)
        test = node.test
        compared = isinstance(test, ast.Compare) and len(test.ops) == 1
        operator = _OPERATORS[type(test.ops[0])] if compared else ""  # type: ignore[attr-defined]
        self.asserts.append((node.lineno, node.end_lineno or node.lineno, operator))
        if compared:
            test.left = _call("__left__", number, test.left)  # type: ignore[attr-defined]
            test.comparators = [_call("__right__", number, test.comparators[0])]  # type: ignore[attr-defined]
        else:
            node.test = _call("__truth__", number, test)
        return node

    def _note_left(self, number: int, value: Any) -> Any:
        self.number, self.left, self.right = number, value, _NOTHING
        return value

    def _note_right(self, number: int, value: Any) -> Any:
        self.right = value
        return value

    def _note_truth(self, number: int, value: Any) -> Any:
        self.number, self.left, self.right = number, value, _NOTHING
        return value

    def compared(self, line: int) -> tuple[str, str]:
        """Actual and expected value of the assert at ``line`` as text; empty texts if it was not reached."""
        if not 0 <= self.number < len(self.asserts) or self.left is _NOTHING:
            return "", ""
        first, last, operator = self.asserts[self.number]
        if not first <= line <= last:
            return "", ""
        if self.right is _NOTHING:
            return show(self.left), "a true value" if not operator else ""
        return show(self.left), show(self.right) if operator == "==" else f"{operator} {show(self.right)}"

    def span(self, line: int) -> tuple[int, int]:
        """First and last line of the assert around ``line``, or the line itself."""
        return next(((first, last) for first, last, _ in self.asserts if first <= line <= last), (line, line))


def _call(name: str, number: int, value: ast.expr) -> ast.Call:
    made = ast.Call(ast.Name(name, ast.Load()), [ast.Constant(number), value], [])
    return ast.fix_missing_locations(ast.copy_location(made, value))


def show(value: Any, most: int = 500) -> str:
    """A value's text, cut after ``most`` characters; never fails, and never writes more than it shows."""
    parts: list[str] = []
    try:
        _write(value, parts, [most], 0)
    except Exception as error:
        parts = [f"<a {type(value).__name__} without text: {type(error).__name__}>"]
    text = "".join(parts)
    return text if len(text) <= most else text[: most - 3] + "..."


def _write(value: Any, parts: list[str], left: list[int], depth: int) -> None:
    """Add a value's text to ``parts`` until ``left`` characters are used up: shared lists may hold more than any memory."""
    cls = type(value)

    def put(text: str) -> None:
        parts.append(text)
        left[0] -= len(text)

    if depth > 50:
        put("...")
    elif cls is int and value.bit_length() > 5000:
        put(f"<an int of {value.bit_length()} bits>")
    elif cls in (str, bytes, bytearray):
        put(repr(value[: left[0] + 10]))
    elif isinstance(value, dict) or cls in _BRACKETS:
        name = "" if cls in (dict, list, tuple, set) else cls.__name__
        first, last = _BRACKETS.get(cls, ("{", "}"))
        put(f"{name}({first}" if name else first)
        for number, item in enumerate(value):
            if left[0] <= 0:
                return
            put(", " if number else "")
            _write(item, parts, left, depth + 1)
            if isinstance(value, dict):
                put(": ")
                _write(value[item], parts, left, depth + 1)
        if cls is tuple and len(value) == 1:
            put(",")
        put(f"{last})" if name else last)
    else:
        put(repr(value))


_BRACKETS: dict[type, tuple[str, str]] = {
    list: ("[", "]"),
    tuple: ("(", ")"),
    set: ("{", "}"),
    frozenset: ("{", "}"),
    deque: ("[", "]"),
}
