"""Findings: what is wrong with a row and where, counted and said once per kind."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["Finding", "Place", "Tally", "half_pair", "place"]

_SHOWN = 3

_LINED = (".jsonl", ".ndjson", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class Finding:
    """Something wrong with a row.

    Attributes:
        where: Its file and line.
        reason: A short fixed phrase, which findings are counted by.
        detail: What was found and what is needed.
        lost: Whether the conversation is left out; False: it was repaired, which is told all the same.
    """

    where: str
    reason: str
    detail: str
    lost: bool = True


@dataclass
class Tally:
    """How many rows were read, kept, left out and repaired, and why.

    Attributes:
        rows: Rows read.
        kept: Conversations that came out of them.
        counts: Findings by reason, of conversations left out and, under `notes`, of those repaired.
        first: The first three places of each reason.
    """

    rows: int = 0
    kept: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    first: dict[str, list[str]] = field(default_factory=dict)

    def add(self, where: str, reason: str, detail: str = "", lost: bool = True) -> None:
        """Counts a finding.

        Args:
            where: file and line.
            reason: a short fixed phrase.
            detail: more about this one.
            lost: whether the conversation is left out.
        """
        counts = self.counts if lost else self.notes
        counts[reason] = counts.get(reason, 0) + 1
        places = self.first.setdefault(reason, [])
        if len(places) < _SHOWN:
            places.append(f"{where}: {detail}" if detail else where)

    def merge(self, more: Tally) -> None:
        """Adds the findings of another tally; rows and kept conversations stay.

        Args:
            more: of the same rows, such as what an encoder found after their reader.
        """
        for counts, add in ((self.counts, more.counts), (self.notes, more.notes)):
            for reason, number in add.items():
                counts[reason] = counts.get(reason, 0) + number
        for reason, places in more.first.items():
            self.first[reason] = (self.first.get(reason, []) + places)[:_SHOWN]

    @property
    def lost(self) -> int:
        """Conversations left out."""
        return sum(self.counts.values())

    def lines(self) -> list[str]:
        """One line per reason, the most frequent first."""
        found = [(count, reason, "left out") for reason, count in self.counts.items()]
        found += [(count, reason, "kept") for reason, count in self.notes.items()]
        return [
            f"{count} {fate}, {reason}: {'; '.join(self.first[reason])}{'; …' if count > _SHOWN else ''}"
            for count, reason, fate in sorted(found, key=lambda item: (item[2] == "kept", -item[0], item[1]))
        ]

    def state(self) -> dict[str, Any]:
        """All of it as what JSON can write."""
        return {"rows": self.rows, "kept": self.kept, "counts": self.counts, "notes": self.notes, "first": self.first}


def place(source: str, row: int) -> str:
    """File and line of a row; "row" where the source has no lines."""
    return f"{source}, {'line' if source.lower().removesuffix('.gz').endswith(_LINED) else 'row'} {row}"


@dataclass(frozen=True)
class Place:
    """Where a row stands; as a text what messages say.

    Attributes:
        source: File, or name of the data set.
        row: Number of its line (or row, where the source has no lines), from 1.
    """

    source: str
    row: int

    def __str__(self) -> str:
        return place(self.source, self.row)


def half_pair(text: str) -> int | None:
    r"""Where half a surrogate pair stands, as JSON's "\ud83d" gives one: no tokenizer takes it. None: nowhere.

    Args:
        text: any.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return error.start
    return None
