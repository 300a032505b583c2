"""Numbers in texts: taking the answer to a word problem out of its solution, and comparing numbers exactly."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Any

__all__ = ["canonical_number", "final_number", "is_number", "same_number"]

_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?|-?\$?\.\d+"
_MARKED = re.compile(rf"####\s*\$?({_NUMBER})")
_BOXED = re.compile(rf"\\boxed\{{\s*\\?\$?({_NUMBER})")
_SAID = re.compile(rf"answer is:?\s*\\?\(?\$?({_NUMBER})", re.IGNORECASE)
_ANY = re.compile(_NUMBER)
# Digits of the other scripts of MGSM's languages become ours.
_DIGITS = str.maketrans("٠١٢٣٤٥٦٧٨٩০১২৩৪৫৬৭৮৯౦౧౨౩౪౫౬౭౮౯๐๑๒๓๔๕๖๗๘๙０１２３４５６７８９", "0123456789" * 5)


def final_number(text: str) -> str | None:
    """The number that a solution ends with, None without any.

    In this order: the first after ``####``, the last in ``\\boxed{}``, the last after "answer is", the last of all.

    Args:
        text: a solution.
    """
    text = text.translate(_DIGITS)
    marked = _MARKED.search(text)
    if marked is not None:
        return marked.group(1)
    for pattern in (_BOXED, _SAID, _ANY):
        found = pattern.findall(text)
        if found:
            return str(found[-1])
    return None


def canonical_number(text: str) -> str:
    """One spelling of a number: without currency, thousands' commas, a full stop behind it, or zeros that mean nothing.

    What is no number comes back stripped.

    Args:
        text: a number as people write it.
    """
    number = _decimal(text)
    if number is None:
        return text.strip()
    exact = format(number.normalize(), "f")
    return "0" if exact == "-0" else exact


def _decimal(text: str) -> Decimal | None:
    plain = text.translate(_DIGITS).strip().replace(",", "").replace("$", "").rstrip(".").strip()
    try:
        number = Decimal(plain)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def is_number(text: str) -> bool:
    """Whether a text is one number, with or without currency and thousands' commas: a right answer that isn't can never be met.

    Args:
        text: as people write it.
    """
    return _decimal(text) is not None


def same_number(answer: str, target: Any) -> bool:
    """Whether two numbers are the same, exactly."""
    return canonical_number(answer) == canonical_number(str(target))
