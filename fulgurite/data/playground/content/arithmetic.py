"""Exact arithmetic on text, by a walk over a restricted syntax tree; nothing is ever executed.

Numbers are integers, decimals and fractions; operators are + - * / and brackets. The size of what is read and of what
comes out is bounded, so that an answer such as 9**9**9 costs nothing (powers are refused altogether).
"""

from __future__ import annotations

import ast
import re
from fractions import Fraction

__all__ = ["NotArithmetic", "evaluate", "final_number", "numbers_used", "parse"]

_LONGEST = 200  # characters; every expression of the playground is far shorter
_LARGEST = 10**12
_NUMBER = re.compile(r"-?\d{1,20}(?:\.\d{1,20}|/0*[1-9]\d{0,12})?")
_MARK = re.compile(r"####|answer(?: is)?\s*:?", re.IGNORECASE)


class NotArithmetic(ValueError):
    """The text is not arithmetic of the allowed kind."""


def parse(text: str) -> ast.expr:
    """The syntax tree of an expression.

    Args:
        text: the expression, of at most 200 characters.
    """
    if len(text) > _LONGEST:
        raise NotArithmetic(f"parse: {len(text)} characters; at most {_LONGEST} are read; shorten the expression.")
    try:
        return ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise NotArithmetic(f"parse: {text!r} is not an expression; write numbers joined by + - * / and ().") from error


def evaluate(text: str) -> Fraction:
    """The exact value of an expression.

    Args:
        text: numbers joined by + - * / and brackets.
    """
    return _walk(parse(text))


def numbers_used(text: str) -> list[Fraction]:
    """The numbers that an expression is written with, sorted."""
    nodes = (node for node in ast.walk(parse(text)) if isinstance(node, ast.Constant))
    return sorted(_walk(node) for node in nodes)


def final_number(text: str) -> Fraction:
    """The number that a worked answer ends with.

    What follows the last "####" or "answer" counts where there is one, else the whole text; its last number is taken.

    Args:
        text: a worked answer, or only a number.
    """
    marks = list(_MARK.finditer(text))
    tail = text[marks[-1].end() :] if marks else text
    found = _NUMBER.findall(tail.replace(",", ""))
    if not found:
        raise NotArithmetic(f"final_number: no number in {text[:80]!r}; the answer must end with a number.")
    return Fraction(found[-1])


def _walk(node: ast.expr) -> Fraction:
    value: Fraction | None
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)) and not isinstance(node.value, bool):
        value = Fraction(str(node.value)) if abs(node.value) < _LARGEST else None
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _walk(node.operand)
        value = -inner if isinstance(node.op, ast.USub) else inner
    elif isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Sub, ast.Mult, ast.Div)):
        left, right = _walk(node.left), _walk(node.right)
        if isinstance(node.op, ast.Div):
            if right == 0:
                raise NotArithmetic("evaluate: a division by zero; the divisor must not be 0; change the expression.")
            value = left / right
        elif isinstance(node.op, ast.Mult):
            value = left * right
        else:
            value = left + right if isinstance(node.op, ast.Add) else left - right
    else:
        raise NotArithmetic(f"evaluate: {type(node).__name__}; only numbers, + - * / and () are allowed; use those.")
    if value is None or abs(value.numerator) > _LARGEST or value.denominator > _LARGEST:
        raise NotArithmetic(f"evaluate: a number beyond {_LARGEST}; stay below; use smaller numbers.")
    return value
