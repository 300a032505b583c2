"""One question of a benchmark as plain data: what a model reads, and the answers among which it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

__all__ = ["Item", "Row", "field_of", "with_blank"]

Row: TypeAlias = "Mapping[str, Any]"


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        key: what tells it from the task's other items; it stays the same when other rows are added.
        prompt: the text that a model continues.
        target: what the judge needs, as plain data.
        choices: the answers among which the model chooses, each as it continues the prompt.
        question: what a chat's user asks; None for the prompt.
        solution: a right answer as it follows the prompt, for examples and for checking the task itself.
        data: whatever else the task's functions need.
    """

    key: str
    prompt: str
    target: Any = None
    choices: tuple[str, ...] = ()
    question: str | None = None
    solution: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    @property
    def right_answer(self) -> str | None:
        """A right answer as it follows the prompt; None where none is written out."""
        if self.choices:
            return self.choices[self.target if isinstance(self.target, int) else 0]
        return self.solution or None


def field_of(row: Row, name: str, kind: type | tuple[type, ...] = str) -> Any:
    """A field of a row.

    Args:
        row: the row.
        name: of the field.
        kind: what it has to be.

    Raises:
        ValueError: it is not there, is empty, or is something else.
    """
    if name not in row or row[name] is None:
        raise ValueError(f"there is no {name!r}; found {', '.join(map(repr, row))}")
    value = row[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
        raise ValueError(f"{name!r} is {repr(value)[:60]}; needed is {' or '.join(k.__name__ for k in kinds)}")
    if isinstance(value, (str, list)) and not (value.strip() if isinstance(value, str) else value):
        raise ValueError(f"{name!r} is empty")
    return value


def with_blank(choices: Sequence[str]) -> tuple[str, ...]:
    """Choices as they follow a prompt."""
    return tuple(f" {choice}" for choice in choices)
