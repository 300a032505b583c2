"""`Examples`: the texts and labels of one split, before tokenisation, and the checks that name file, row and label."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite

from fulgurite.data.records.findings import half_pair

__all__ = ["Examples", "checked_text", "class_index", "number_in_range", "whole_number"]


@dataclass
class Examples:
    """The rows of one split.

    Args:
        texts: first (or only) text of each row.
        pairs: second text of each row, or None for single texts.
        labels: class index, value, or None for a row whose label is hidden; None for rows that have no label column.
        source: where the rows came from, for messages.
        rows: number of each row in `source`, counted from 1 as the reader's error messages do.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: list[int | float | None] | None
    source: str
    rows: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, column in (("pairs", self.pairs), ("labels", self.labels)):
            if column is not None and len(column) != len(self.texts):
                raise ValueError(
                    f"Examples: {len(self.texts)} texts and {len(column)} {name} from {self.source}; their numbers must be equal"
                )

    def __len__(self) -> int:
        return len(self.texts)

    def labelled(self) -> int:
        """How many rows have a label."""
        return 0 if self.labels is None else sum(label is not None for label in self.labels)

    def unlabelled(self, split: str, *columns: str) -> str:
        """What is wrong with rows of a split that need a label each and have none; "" where all have one.

        Args:
            split: the rows' name, for the message.
            columns: names that the label's column may have.
        """
        missing = len(self) - self.labelled()
        if not missing:
            return ""
        names = " or ".join(map(repr, dict.fromkeys(columns)))
        if self.labels is None and missing == len(self):
            why = "there is no such column"
        else:
            row = next((self.rows[i] for i, label in enumerate(self.labels or ()) if label is None and self.rows), None)
            why = "empty and -1 stand for a hidden label" + ("" if row is None else f", the first is in row {row}")
        return (
            f"{self.source}: {missing} of {len(self)} rows have no label; {split} rows need one each (a column {names}); {why}; "
            "give labelled rows, if this is a file of test rows, or correct it"
        )

    def take(self, indices: Sequence[int]) -> "Examples":
        """The rows at `indices`, in that order."""
        return Examples(
            [self.texts[i] for i in indices],
            None if self.pairs is None else [self.pairs[i] for i in indices],
            None if self.labels is None else [self.labels[i] for i in indices],
            self.source,
            [self.rows[i] for i in indices] if self.rows else [],
        )

    def joined(self, other: "Examples") -> "Examples":
        """These rows followed by those of `other`, which must have the same columns."""
        if (self.pairs is None) != (other.pairs is None) or (self.labels is None) != (other.labels is None):
            raise ValueError(f"Examples: {self.source} and {other.source} have different columns; give them the same")
        return Examples(
            self.texts + other.texts,
            None if self.pairs is None or other.pairs is None else self.pairs + other.pairs,
            None if self.labels is None or other.labels is None else self.labels + other.labels,
            f"{self.source}, {other.source}",
            self.rows + other.rows,
        )


def checked_text(value: object, column: str, where: str) -> str:
    """`value`, which must be a text that can be tokenised.

    Args:
        value: what was read.
        column: where it stood, for the message.
        where: file and row, for the message.
    """
    if not isinstance(value, str):
        raise ValueError(f"{where}: column {column!r} holds {value!r}; a text is needed; correct the row")
    at = half_pair(value)
    if at is not None:
        raise ValueError(
            f"{where}: column {column!r} holds half a surrogate pair at character {at}, which is no Unicode; correct the row"
        )
    return value


def whole_number(text: str) -> int | None:
    """The number that a text of digits means; None for any other text.

    Args:
        text: without space around it.
    """
    return int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None


def class_index(value: object, names: Sequence[str], where: str) -> int:
    """The index in `names` of a label given as an index (a number or its text) or as one of the names.

    Args:
        value: the label as read.
        names: label names; the index counts from 0.
        where: file and row, for the message.
    """
    if isinstance(value, str):
        text = value.strip()
        if text in names:
            return list(names).index(text)
        number = whole_number(text)
    elif isinstance(value, float):
        number = int(value) if value.is_integer() else None
    else:
        number = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, bool):
            number = int(value)
    if number is None or not 0 <= number < len(names):
        raise ValueError(
            f"{where}: the label is {value!r}; allowed are 0 to {len(names) - 1} or {', '.join(map(repr, names))}; "
            "correct the row"
        )
    return number


def number_in_range(value: object, low: float, high: float, where: str) -> float:
    """`value` as a float between `low` and `high`, both allowed."""
    try:
        number = float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not low <= number <= high or not isfinite(number):
        bounds = "a finite number" if low == float("-inf") else f"a number from {low:g} to {high:g}"
        raise ValueError(f"{where}: the label is {value!r}; allowed is {bounds}; correct the row")
    return number
