"""A tiny interpreter for the code answers of the playground: a walk over a restricted syntax tree.

Python's exec and eval are never called. Allowed are functions with plain arguments, assignments to names, arithmetic,
comparisons, and/or/not, if, for over range, return, and calls of the functions defined in the same text and of abs,
min, max and int. There are no attributes, imports, subscripts, strings, lambdas or while; values are whole numbers,
fractions and truth values of bounded size; steps and depth are bounded. Deviation from Python: ``/`` is exact.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

__all__ = ["NotAllowed", "Program", "strip_fence"]

_LONGEST = 4000  # characters of source
_LARGEST = 10**15
_STEPS = 5_000
_DEPTH = 30

_BINARY: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: lambda left, right: Fraction(left) / Fraction(right),
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"abs": abs, "min": min, "max": max, "int": int}


class NotAllowed(ValueError):
    """The program is not of the allowed kind, or it runs too long."""


class _Leave(Exception):
    """Carries what a return statement returns; break and continue have their own."""

    def __init__(self, value: Any) -> None:
        self.value = value


class _Break(Exception):
    pass


class _Continue(Exception):
    pass


def strip_fence(text: str) -> str:
    """The code inside the first Markdown fence, or the text itself where there is none."""
    found = re.search(r"```(?:python)?\n(.*?)```", text, re.DOTALL)
    return found.group(1) if found else text


class Program:
    """The functions that a text defines.

    Args:
        source: Python text holding only function definitions of the allowed kind.
    """

    def __init__(self, source: str) -> None:
        if len(source) > _LONGEST:
            raise NotAllowed(f"Program: {len(source)} characters; at most {_LONGEST} are read; shorten the program.")
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise NotAllowed("Program: not Python; function definitions are allowed; correct the syntax.") from error
        self.functions: dict[str, ast.FunctionDef] = {}
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or node.decorator_list:
                raise _refused(node)
            spec = node.args
            if spec.vararg or spec.kwarg or spec.kwonlyargs or spec.posonlyargs or spec.defaults:
                raise _refused(spec)
            self.functions[node.name] = node
        self._steps = 0
        self._depth = 0

    def call(self, name: str, *arguments: int) -> Any:
        """What a function returns for whole numbers.

        Args:
            name: one of ``functions``.
            arguments: the values of its arguments, in their order.
        """
        self._steps = self._depth = 0
        try:
            return self._call(name, list(arguments))
        except (ArithmeticError, TypeError, RecursionError) as error:
            raise NotAllowed(f"Program: {name}{arguments} fails; it must return a number; {error}.") from error

    def _call(self, name: str, values: list[Any]) -> Any:
        node = self.functions.get(name)
        if node is None:
            known = ", ".join([*self.functions, *_FUNCTIONS])
            raise NotAllowed(f"Program: {name!r} is not defined; allowed are {known}; define it or use those.")
        if len(values) != len(node.args.args):
            raise NotAllowed(f"Program: {name} takes {len(node.args.args)} arguments; given {len(values)}; correct it.")
        self._depth += 1
        if self._depth > _DEPTH:
            raise NotAllowed(f"Program: more than {_DEPTH} calls inside each other; stop earlier.")
        names = {argument.arg: value for argument, value in zip(node.args.args, values, strict=True)}
        try:
            self._block(node.body, names)
        except _Leave as leave:
            return leave.value
        except (_Break, _Continue) as error:
            raise NotAllowed("Program: break or continue outside a loop; they belong into for; remove it.") from error
        finally:
            self._depth -= 1
        return None

    def _tick(self) -> None:
        self._steps += 1
        if self._steps > _STEPS:
            raise NotAllowed(f"Program: more than {_STEPS} steps; it must stop earlier; shorten its loops.")

    def _block(self, body: list[ast.stmt], names: dict[str, Any]) -> None:
        for node in body:
            self._tick()
            self._statement(node, names)

    def _statement(self, node: ast.stmt, names: dict[str, Any]) -> None:
        if isinstance(node, ast.Return):
            raise _Leave(None if node.value is None else self._value(node.value, names))
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            names[node.targets[0].id] = self._value(node.value, names)
        elif isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name):
            current = self._name(node.target.id, names)
            names[node.target.id] = self._binary(node.op, current, self._value(node.value, names))
        elif isinstance(node, ast.If):
            self._block(node.body if self._value(node.test, names) else node.orelse, names)
        elif isinstance(node, ast.For):
            self._loop(node, names)
        elif isinstance(node, ast.Break):
            raise _Break
        elif isinstance(node, ast.Continue):
            raise _Continue
        elif not (isinstance(node, ast.Pass) or _is_docstring(node)):
            raise _refused(node)

    def _loop(self, node: ast.For, names: dict[str, Any]) -> None:
        source = node.iter
        ranged = isinstance(source, ast.Call) and isinstance(source.func, ast.Name) and source.func.id == "range"
        if not (isinstance(source, ast.Call) and ranged and not source.keywords and isinstance(node.target, ast.Name)):
            raise _refused(node)
        bounds = [self._value(argument, names) for argument in source.args]
        if not 1 <= len(bounds) <= 3 or not all(isinstance(bound, int) for bound in bounds) or bounds[2:] == [0]:
            raise _refused(source)
        for value in range(*bounds):
            self._tick()
            names[node.target.id] = value
            try:
                self._block(node.body, names)
            except _Break:
                return
            except _Continue:
                continue
        self._block(node.orelse, names)

    def _name(self, name: str, names: dict[str, Any]) -> Any:
        if name not in names:
            raise NotAllowed(f"Program: the name {name!r} has no value; arguments and assigned names have; assign it.")
        return names[name]

    def _value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        self._tick()
        if isinstance(node, ast.Constant) and type(node.value) in (int, bool):
            return _bounded(node.value)
        if isinstance(node, ast.Name):
            return self._name(node.id, names)
        if isinstance(node, ast.BinOp):
            return self._binary(node.op, self._value(node.left, names), self._value(node.right, names))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd, ast.Not)):
            value = self._value(node.operand, names)
            return not value if isinstance(node.op, ast.Not) else -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.BoolOp):
            stop = isinstance(node.op, ast.Or)
            value = None
            for part in node.values:
                value = self._value(part, names)
                if bool(value) == stop:
                    break
            return value
        if isinstance(node, ast.Compare):
            return self._compare(node, names)
        if isinstance(node, ast.IfExp):
            return self._value(node.body if self._value(node.test, names) else node.orelse, names)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
            values = [self._value(argument, names) for argument in node.args]
            if node.func.id in _FUNCTIONS and node.func.id not in self.functions:
                return _bounded(_FUNCTIONS[node.func.id](*values))
            return self._call(node.func.id, values)
        raise _refused(node)

    def _binary(self, kind: ast.operator, left: Any, right: Any) -> Any:
        if type(kind) not in _BINARY:
            raise _refused(kind)
        if isinstance(kind, ast.Pow) and not (isinstance(right, int) and 0 <= right <= 50):
            raise NotAllowed(f"Program: the power {right}; whole powers from 0 to 50 are allowed; use a smaller one.")
        return _bounded(_BINARY[type(kind)](left, right))

    def _compare(self, node: ast.Compare, names: dict[str, Any]) -> bool:
        left = self._value(node.left, names)
        for kind, part in zip(node.ops, node.comparators, strict=True):
            right = self._value(part, names)
            if type(kind) not in _COMPARE:
                raise _refused(kind)
            if not _COMPARE[type(kind)](left, right):
                return False
            left = right
        return True


def _bounded(value: Any) -> Any:
    if isinstance(value, Fraction) and value.denominator == 1:
        value = value.numerator
    parts = (value.numerator, value.denominator) if isinstance(value, (int, Fraction)) else ()
    if any(abs(part) > _LARGEST for part in parts):
        raise NotAllowed(f"Program: a number beyond {_LARGEST}; stay below; use smaller numbers.")
    return value


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _refused(node: ast.AST) -> NotAllowed:
    allowed = "functions, assignments, arithmetic, comparisons, if, for over range, return and calls"
    return NotAllowed(f"Program: {type(node).__name__}; allowed are {allowed}; write it with those.")
