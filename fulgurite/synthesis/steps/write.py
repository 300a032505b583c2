"""write: columns of the rows as a table of one's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fulgurite.synthesis.desk import Desk
from fulgurite.synthesis.ledger import TableRows
from fulgurite.synthesis.rows import Row
from fulgurite.synthesis.step import Step, register

__all__: list[str] = []


@dataclass(frozen=True)
class WriteOptions:
    """What is written.

    Args:
        table: name of the file.
        columns: the rows' column for each column of the file.
    """

    table: str
    columns: dict[str, str]

    def __post_init__(self) -> None:
        if not self.columns or not self.table.replace("_", "").replace("-", "").isalnum():
            raise ValueError(
                f"synthesize: write needs columns, and a table of letters, digits, - and _, not {self.table!r}"
            )


def _run(options: WriteOptions, rows: Sequence[Row], desk: Desk) -> list[Row]:
    table = TableRows()
    for row in rows:
        missing = [theirs for theirs in options.columns.values() if theirs not in row.data]
        if missing:
            raise ValueError(
                f"synthesize: step {desk.step}: row {row.key} has no column {missing[0]!r}; its columns are {', '.join(row.data)}"
            )
        table.add({ours: row.data[theirs] for ours, theirs in options.columns.items()}, row.key, row.made)
    if desk.dry is None:
        desk.ledger.tables[options.table] = table
    return list(rows)


register(Step("write", "columns of the rows as a file of its own", WriteOptions, _run))
