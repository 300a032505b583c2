"""Asserts about one function: taken from docstrings and from texts that a model wrote; and programs that hold their values.

A docstring shows what a function gives in several ways: `>>> f(2)` with the value on the next line, `f(2) == 4`, `f(2) ➞ 4`,
`f(2) # => 4`. Only values that are literals are taken.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from fulgurite.evaluation.tasks.code.programs import fenced

__all__ = ["asserts_in", "called", "docstring_examples", "hard_coded"]

_MOST = 5  # tests of a model that are taken
_ARROW = re.compile(r"\s*(?:#\s*)?(?:={1,2}>|={1,2}|-{1,3}>|➞|→|➜|returns|should return)\s*")
_BUILTINS = frozenset(
    "abs all any bool dict enumerate float frozenset int isinstance len list max min "
    "range round set sorted str sum tuple zip".split()
)
_SMALL = 2  # whole numbers up to this size, and texts of one letter, stand in any program


def docstring_examples(text: str, entry_point: str) -> tuple[str, ...]:
    """The examples of a docstring as asserts, each once, in the order of the text.

    Args:
        text: a docstring, or a program that holds one.
        entry_point: the function that the examples call.
    """
    found: list[str] = []
    lines = [line.strip() for line in text.splitlines()]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        call, value = _shown(line, after, entry_point)
        if call and value is not None:
            found.append(f"assert {call} == {value}")
    return tuple(dict.fromkeys(found))


def _shown(line: str, after: str, entry_point: str) -> tuple[str, str | None]:
    """A call and the literal that it gives, as a line of a docstring shows them."""
    prompted = line.startswith(">>>")
    code = line.removeprefix(">>>").strip()
    at = code.find(f"{entry_point}(")
    if at < 0 or (not prompted and at > 0 and (code[at - 1].isalnum() or code[at - 1] in "_.'\"")):
        return "", None
    code = code if prompted else code[at:]
    for end in (place + 1 for place, letter in enumerate(code) if letter == ")"):
        if _calls(code[:end], entry_point):
            if arrow := _ARROW.match(code[end:]):
                return code[:end], _literal(code[end + arrow.end() :])
            if prompted and (not code[end:].strip() or code[end:].lstrip().startswith("#")):
                return code[:end], _literal(after)
            if not prompted:
                return "", None
    return "", None


def _calls(code: str, entry_point: str) -> bool:
    try:
        tree = ast.parse(code.strip(), mode="eval")
    except (SyntaxError, ValueError):
        return False
    functions = _names_called(tree)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return entry_point in functions and names == functions  # f(x) with a name in place of a value is no example


def _literal(text: str) -> str | None:
    """The text if it is a literal, without a full stop or a comment behind it."""
    named = {"true": "True", "false": "False", "none": "None"}
    for part in (text.rstrip(". "), text, text.partition(" #")[0]):
        part = named.get(part.strip(), part)
        try:
            value = ast.literal_eval(part.strip())
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            continue
        return None if value is ... else part.strip()
    return None


def _names_called(tree: ast.AST) -> set[str]:
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {function.id for function in calls if isinstance(function, ast.Name)}


def called(test: str) -> str:
    """The function that an assert is about: the innermost name called on its left side that no builtin has; "" for none.

    Args:
        test: an assert.
    """
    import builtins

    try:
        tree = ast.parse(test)
    except (SyntaxError, ValueError):
        return ""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    names = [node.func.id for node in calls if isinstance(node.func, ast.Name)]
    own = [name for name in names if not hasattr(builtins, name)] or names
    return own[0] if own else ""


def asserts_in(text: str, entry_point: str) -> tuple[str, ...]:
    """The first five asserts of a model's text that call a function, each once.

    Left out are those that are no Python, and those that use more than the function, literals and a few builtins: a name that the
    text defines elsewhere is not there when the assert runs, and whatever else they do would end the judge and not the program.

    Args:
        text: what a model wrote: fenced code, or plain lines.
        entry_point: the function that they have to call.
    """
    block = fenced(text)
    found = [test for test in _asserts(text if block is None else block) if _self_contained(test, entry_point)]
    return tuple(dict.fromkeys(found))[:_MOST]


def _self_contained(test: str, entry_point: str) -> bool:
    tree = ast.parse(test)
    nodes = list(ast.walk(tree))
    names = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    return (
        entry_point in _names_called(tree)
        and names - bound <= {entry_point, *_BUILTINS}
        and not any(isinstance(node, (ast.Attribute, ast.Lambda)) for node in nodes)
    )


def _asserts(code: str) -> Iterator[str]:
    try:
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Assert):
                yield ast.unparse(node)
        return
    except (SyntaxError, ValueError, RecursionError):
        pass
    for line in code.splitlines():  # prose between them, or an end that was cut off
        try:
            (node,) = ast.parse(line.strip()).body
        except (SyntaxError, ValueError):
            continue
        if isinstance(node, ast.Assert):
            yield ast.unparse(node)


def hard_coded(program: str, tests: tuple[str, ...]) -> bool:
    """Whether a program holds the arguments and the expected value of one of its tests as literals.

    Values that stand in any program (numbers up to 2, truth values, None, empty or one-letter texts) show nothing: a test counts if
    at least one of its values is another one. Docstrings do not count.

    Args:
        program: its source; one that is no Python holds nothing.
        tests: asserts of the form `f(…) == value`.
    """
    try:
        tree = ast.parse(program)
    except (SyntaxError, ValueError, RecursionError):
        return False
    texts = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    held = {value for node in ast.walk(tree) if id(node) not in texts and (value := _value(node)) is not None}
    for test in tests:
        values = _values(test)
        if values and all(value in held for value in values) and not all(_plain(value) for value in values):
            return True
    return False


def _value(node: ast.AST) -> str | None:
    """A literal's text in one form; None for anything else."""
    if not isinstance(node, ast.expr):
        return None
    try:
        return repr(ast.literal_eval(node))
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _values(test: str) -> list[str]:
    """Arguments and expected value of `f(…) == value`; nothing where one of them is no literal."""
    try:
        (node,) = ast.parse(test).body
    except (SyntaxError, ValueError):
        return []
    if not isinstance(node, ast.Assert) or not isinstance(node.test, ast.Compare) or len(node.test.ops) != 1:
        return []
    call, value = node.test.left, node.test.comparators[0]
    if not isinstance(node.test.ops[0], (ast.Eq, ast.Is)) or not isinstance(call, ast.Call):
        return []
    found = [_value(part) for part in (*call.args, *(keyword.value for keyword in call.keywords), value)]
    return [] if None in found else [part for part in found if part is not None]


def _plain(value: str) -> bool:
    if value == "set()":
        return True
    held = ast.literal_eval(value)
    if held is None or isinstance(held, (bool, int, float, complex)):
        return held is None or abs(held) <= _SMALL
    return held is ... or len(held) <= (1 if isinstance(held, (str, bytes)) else 0)
