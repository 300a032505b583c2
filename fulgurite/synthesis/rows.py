"""The rows that go from step to step: what is known of each, and which answers it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fulgurite.synthesis.problems import Problem

__all__ = ["Row"]


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        key: what tells it from all others; it stays the same when other rows are added.
        data: its columns.
        problem: how its answers are judged; None where nothing can be judged by running or comparing.
        made: provenance of the answers in it: model, hashes of prompt and templates, seed, tokens, cost.
    """

    key: str
    data: Mapping[str, Any]
    problem: Problem | None = None
    made: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def having(self, columns: Mapping[str, Any], made: tuple[Mapping[str, Any], ...] = ()) -> Row:
        """The row with further columns.

        Args:
            columns: replace those of the same name.
            made: provenance of the answers that they come from.
        """
        return replace(self, data={**self.data, **columns}, made=(*self.made, *made))

    def text(self, column: str) -> str:
        """A column that has to be a text.

        Raises:
            ValueError: the row has no such column.
        """
        value = self.data.get(column)
        if not isinstance(value, str):
            raise ValueError(
                f"synthesize: row {self.key} has no text in {column!r}; its columns are {', '.join(self.data)}; name another one"
            )
        return value
