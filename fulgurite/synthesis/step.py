"""What a step of a recipe is, and the list of all kinds. A file of `steps/` registers its own; nothing else names it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.rows import Row

__all__ = ["STEPS", "Step", "register"]


@dataclass(frozen=True)
class Step:
    """A kind of step.

    Attributes:
        kind: what `do` in a recipe calls it.
        summary: what it does, in one line.
        options: the dataclass of its options.
        run: rows in, rows out. It drops what is to be left out, lets rows wait whose answers are missing, and asks through
            the desk.
    """

    kind: str
    summary: str
    options: type[Any]
    run: Callable[[Any, Sequence[Row], Desk], list[Row]]


STEPS: dict[str, Step] = {}


def register(step: Step) -> Step:
    """Puts a kind of step on the list.

    Raises:
        ValueError: the name is taken.
    """
    if step.kind in STEPS:
        raise ValueError(f"register: a step {step.kind!r} is there already; choose another name")
    STEPS[step.kind] = step
    return step
