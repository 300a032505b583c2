"""What became of the rows of each step: how many came and went, which left and why, what was odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Ledger", "StepCount", "TableRows"]

_SHOWN = 3


@dataclass
class StepCount:
    """The counts of one step.

    Attributes:
        name: of the step.
        rows: that came to it.
        kept: that went on.
        dropped: rows that are left out, by reason.
        waiting: rows that are not done, by reason: the next run goes on with them.
        notes: what was odd about answers or rows that were kept.
        first: the first three places of each reason.
        figures: further numbers, such as shares.
    """

    name: str
    rows: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    waiting: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def count(self, where: Counter[str], reason: str, key: str, detail: str = "") -> None:
        """Counts one row or answer.

        Args:
            where: dropped, waiting or notes.
            reason: a short fixed phrase.
            key: of the row.
            detail: more about this one.
        """
        where[reason] += 1
        places = self.first.setdefault(reason, [])
        if len(places) < _SHOWN:
            places.append(f"{key}: {detail[:200]}" if detail else key)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "rows": self.rows,
            "kept": self.kept,
            "dropped": dict(self.dropped),
            "waiting": dict(self.waiting),
            "notes": dict(self.notes),
            "first": self.first,
            "figures": self.figures,
        }


@dataclass
class TableRows:
    """A file of rows that a recipe makes.

    Attributes:
        rows: exactly in a published schema.
        made: of each row, where it comes from: key of the recipe's row and its answers' provenance.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    made: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Mapping[str, Any], key: str, made: Any) -> None:
        """Adds a row with its provenance."""
        self.rows.append(dict(row))
        self.made.append({"row": key, "answers": [dict(answer) for answer in made]})


@dataclass
class Ledger:
    """All of a run.

    Attributes:
        steps: in order; the first is the reading of rows.
        tables: files by name.
        left: rows that wait for their answers, by key.
    """

    steps: list[StepCount] = field(default_factory=list)
    tables: dict[str, TableRows] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
