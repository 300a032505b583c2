"""Regular expressions over names of modules and parameters, matched in bounded time.

Expressions come from files as well (``adapter.json``, checkpoints), and Python's ``re`` can go back and forth over one for ever.
The package ``regex``, which transformers brings, reads the same expressions and takes a time limit for matching. It writes counted
repeats out when it compiles, so that their number is limited here.
"""

from __future__ import annotations

import math
import time

import regex

__all__ = ["Pattern"]

_SECONDS = 1.0  # of processor time for all names of a model; an ordinary expression takes about a microsecond for each
_LENGTH = 100_000  # characters; several hundred layers written out one by one have a tenth of it
_REPEATS = 10_000  # product of the least counts of all repeats such as {3} or {2,}


class Pattern:
    """A regular expression that is matched against whole names.

    Args:
        text: the expression.
        where: what it was given as, for the messages, such as "attach: targets".

    Raises:
        ValueError: no valid regular expression, or one that would take too long to compile.
    """

    def __init__(self, text: str, where: str) -> None:
        self.text, self.where, self._left = text, where, _SECONDS
        if len(text) > _LENGTH:
            raise ValueError(
                f"{where} has {len(text):,} characters; at most {_LENGTH:,} are allowed. Write it shorter."
            )
        counts = regex.findall(r"\{\s*(\d+)", text)
        if math.prod(max(1, int(count[:6])) for count in counts) > _REPEATS:
            raise ValueError(
                f"{where}={text[:80]!r} repeats {' · '.join(counts[:4])} times; at most {_REPEATS:,} in all are allowed. Give "
                "smaller counts."
            )
        try:
            self._compiled = regex.compile(text)
        except regex.error as error:
            raise ValueError(
                f"{where}={text!r} is no valid regular expression ({error}); give one that matches whole names."
            ) from None

    def matches(self, name: str) -> bool:
        """Whether the whole name matches.

        Raises:
            ValueError: matching takes too long, over all names that this object was asked about.
        """
        start = time.thread_time()
        try:
            found = self._compiled.fullmatch(name, timeout=max(self._left, 0.001)) is not None
        except TimeoutError:
            raise ValueError(
                f"{self.where}={self.text!r} takes too long to match {name!r}; write the expression without repeats inside of "
                "repeats."
            ) from None
        self._left -= time.thread_time() - start
        return found
