"""Programs in texts: what a model wrote becomes source that can be run.

A chat's answer is prose with fenced blocks; a continuation is the rest of the program that the prompt began.
"""

from __future__ import annotations

import re

__all__ = ["STOPS", "fenced", "from_continuation", "whole_program"]

# What ends a function's body at the margin. Not "\n#" and not "\nif": they cut legitimate code.
STOPS = ("\nclass ", "\ndef ", "\n@", "\nassert ", "\nprint(", "\nif __name__", "\n```", "<file_sep>")
_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def fenced(text: str, entry_point: str | None = None) -> str | None:
    """The program in a text's fenced blocks, None without a block.

    Where the entry point is known, it is the first block that defines it; else the first of all. A block that never ends goes on to
    the end of the text.

    Args:
        text: what a model wrote.
        entry_point: the function that the program has to define.
    """
    blocks = [match.group(2) for match in _BLOCK.finditer(text)]
    if not blocks:
        return None
    if entry_point is not None:
        defined = re.compile(rf"\b{re.escape(entry_point)}\b")
        return next((block for block in blocks if defined.search(block)), blocks[0])
    return blocks[0]


def from_continuation(text: str, prompt: str, entry_point: str) -> str | None:
    """A Python program of a continuation of its beginning, or of a text that brings the function itself; None for nothing.

    Args:
        text: what a model wrote behind the prompt, or as an answer.
        prompt: the program's beginning: imports, signature, docstring.
        entry_point: the function that is asked for.
    """
    block = fenced(text, entry_point)
    body = text if block is None else block
    if not body.strip():
        return None
    if re.search(rf"^(?:async )?def {re.escape(entry_point)}\b", body, re.MULTILINE):
        return f"{_imports(prompt)}{body}\n"
    return f"{prompt}{body}\n"


def whole_program(text: str, entry_point: str | None = None) -> str | None:
    """A program of a text that holds all of it, fenced or bare; None for nothing.

    Args:
        text: what a model wrote.
        entry_point: the function that the program has to define, if known.
    """
    block = fenced(text, entry_point)
    body = text if block is None else block
    return f"{body}\n" if body.strip() else None


def _imports(prompt: str) -> str:
    """What stands in the prompt before the last function at the margin: imports and helper functions."""
    starts = [match.start() for match in re.finditer(r"^(?:async )?def ", prompt, re.MULTILINE)]
    return prompt[: starts[-1]] if starts else ""
