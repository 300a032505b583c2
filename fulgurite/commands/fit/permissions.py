"""Permissions count only if they are typed in the command itself: a file or a checkpoint may come from anybody."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only

__all__ = ["only_typed_permissions"]

_NAME = "trust_remote_code"


def only_typed_permissions(model: Any, words: Sequence[str], source: str = "a configuration file") -> None:
    """Set the permission to run a backbone's own code to what the command line says, false where it says nothing.

    Args:
        model: the configuration of the model, which is changed
        words: of the command line
        source: where the configuration comes from, for the warning
    """
    options = model.get("init_args")
    if not options or _NAME not in options:
        return
    asked, typed = bool(options[_NAME]), _typed(words)
    options[_NAME] = bool(typed)
    if asked and typed is None and getattr(rank_zero_only, "rank", 0) == 0:
        sys.stderr.write(
            f"fulgurite: warning: {source} asks for {_NAME}, which would run code that came with the model; that counts only where "
            f"it is typed: --model.{_NAME} true\n"
        )


def _typed(words: Sequence[str]) -> bool | None:
    """The last value of the option on the command line; None where it is not there."""
    found: bool | None = None
    for word, after in zip(words, [*words, ""][1:], strict=True):
        name, equals, value = word.partition("=")
        if name.startswith("--model.") and name.rpartition(".")[2] == _NAME:
            found = (value if equals else after).strip().lower() in ("true", "yes", "1")
    return found
