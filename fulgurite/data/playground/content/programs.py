"""Tasks about tiny Python functions: write one, or say what one returns.

Right is what behaves alike: the answer and the task's own solution are both interpreted (never executed, see
``interpreter``) on the same whole numbers.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from fulgurite.data.playground.content.arithmetic import NotArithmetic, final_number
from fulgurite.data.playground.content.interpreter import NotAllowed, Program, strip_fence
from fulgurite.data.playground.draw import Draw
from fulgurite.data.playground.task import Task

__all__ = ["check_code", "code_task", "function"]

_PROBES = (-7, -2, -1, 0, 1, 2, 3, 5, 10, 11)
_NAMES = ("f", "g", "step", "score", "size", "total", "rule", "change", "compute", "value")


def function(draw: Draw) -> tuple[str, str, int]:
    """A function: what it does in words, its source, and how many arguments it takes."""
    name, k, m = draw.pick(_NAMES), draw.integer(2, 9), draw.integer(2, 9)
    one, two = f"def {name}(x):\n", f"def {name}(x, y):\n"
    made: tuple[tuple[str, str, int], ...] = (
        (f"returns x plus {k}", f"{one}    return x + {k}\n", 1),
        (f"returns {k} times x minus {m}", f"{one}    return {k} * x - {m}\n", 1),
        (f"returns x times x plus {k}", f"{one}    return x * x + {k}\n", 1),
        (f"returns the sum of x and y times {k}", f"{two}    return (x + y) * {k}\n", 2),
        (f"returns x times y minus {k}", f"{two}    return x * y - {k}\n", 2),
        ("returns the larger of x and y", f"{two}    if x > y:\n        return x\n    return y\n", 2),
        ("returns the smaller of x and y", f"{two}    if x < y:\n        return x\n    return y\n", 2),
        ("returns the distance between x and y", f"{two}    if x > y:\n        return x - y\n    return y - x\n", 2),
        (f"returns x but at most {k}", f"{one}    if x > {k}:\n        return {k}\n    return x\n", 1),
        (f"returns x but at least {k}", f"{one}    if x < {k}:\n        return {k}\n    return x\n", 1),
        (f"returns True if x is a multiple of {k}", f"{one}    return x % {k} == 0\n", 1),
        (f"returns True if x is larger than {k}", f"{one}    return x > {k}\n", 1),
        ("returns the sum of the numbers from 1 to x",
         f"{one}    total = 0\n    for i in range(1, x + 1):\n        total += i\n    return total\n", 1),
        (f"adds {k} to x, y times",
         f"{two}    for i in range(y):\n        x = x + {k}\n    return x\n", 2),
        (f"doubles x if it is even, else adds {k}",
         f"{one}    if x % 2 == 0:\n        return 2 * x\n    return x + {k}\n", 1),
        (f"returns the rest of x divided by {k}", f"{one}    return x % {k}\n", 1),
    )  # fmt: skip
    words, source, arity = draw.pick(made)
    return f"Write a function {name}({'x, y' if arity == 2 else 'x'}) that {words}.", source, arity


def code_task(draw: Draw) -> Task:
    """One task: write a function (kind "function"), or say what a call returns (kind "result")."""
    prompt, source, arity = function(draw)
    if draw.chance(0.6):
        return Task("code", "function", prompt, source)
    name = source[4 : source.index("(")]
    arguments = [draw.integer(0, 9) for _ in range(arity)]
    call = f"{name}({', '.join(str(value) for value in arguments)})"
    result = Program(source).call(name, *arguments)
    return Task("code", "result", f"{source}What does {call} return?", str(result))


def check_code(task: Task, answer: str) -> bool:
    """Whether the answer is right: its function returns the same everywhere, or it names the result.

    Args:
        task: a task of the domain code.
        answer: the text to judge; it is interpreted, never executed.
    """
    if task.kind == "result":
        if task.answer in ("True", "False"):
            return answer.strip().rstrip(".") == task.answer
        try:
            return final_number(answer) == final_number(task.answer)
        except NotArithmetic:
            return False
    right = Program(task.answer)
    name = next(iter(right.functions))
    arity = len(right.functions[name].args.args)
    try:
        given = Program(strip_fence(answer))
        return all(
            _same(given.call(name, *values), right.call(name, *values)) for values in product(_PROBES, repeat=arity)
        )
    except NotAllowed:
        return False


def _same(left: Any, right: Any) -> bool:
    return left is not None and isinstance(left, bool) == isinstance(right, bool) and left == right
