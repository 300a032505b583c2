"""All rows of a file or folder at once, as a table with the places of its rows; and the lines of a text file.

The rows are those of `fulgurite.data.sources.formats`. A column that a row leaves out is None there, as it is when the same
rows pass through parquet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fulgurite.data.records.findings import Place
from fulgurite.data.sources.formats import no_such_file, stream_rows
from fulgurite.data.sources.locate import RowSource, user_sources
from fulgurite.data.sources.text_formats import lines_of

__all__ = ["Table", "read_lines", "read_sources", "read_table", "rows_of"]

Row = dict[str, Any]


@dataclass
class Table:
    """Rows with their places.

    Args:
        source: the file's path (of several the first), for messages.
        columns: the names found, in the order of the file.
        rows: one dictionary per row.
        lines: the line (or, where a file has no lines, the number) of each row, counted from 1.
        sources: the file of each row; None where all are of `source`.
    """

    source: str
    columns: list[str]
    rows: list[Row]
    lines: list[int]
    sources: list[str] | None = None

    @property
    def places(self) -> list[Place]:
        """File and line of each row."""
        sources = [self.source] * len(self.lines) if self.sources is None else self.sources
        return [Place(source, line) for source, line in zip(sources, self.lines, strict=True)]

    def require(self, *names: str) -> None:
        """Raises a ValueError unless all of `names` are columns."""
        for name in names:
            if name in self.columns:
                continue
            if len(self.columns) == 1 and len(names) > 1:
                only = self.columns[0]
                separator = next((f" The separator looks like {s!r}." for s in ";|,\t" if s in only), "")
                advice = f"write them separated by {_separator(self.source)}.{separator}"
                if only in names:
                    advice = f"add a column {name!r}."
                raise ValueError(
                    f"{self.source}: one column, {only!r}, was found; columns {', '.join(map(repr, names))} are "
                    f"needed; {advice}"
                )
            hint = _near_column(name, self.columns)
            raise ValueError(f"{self.source}: no column {name!r}; found {', '.join(map(repr, self.columns))}.{hint}")


def _near_column(name: str, columns: Sequence[str]) -> str:
    """What a message adds about a missing column: the one that was meant, with the way to say so."""
    same = [column for column in columns if column.lower() == name.lower()]
    if same:
        return f" {same[0]!r} differs in upper and lower case only: rename the column, or name it so in the options."
    near = get_close_matches(name, columns, n=1)
    return f" Did you mean {near[0]!r}?" if near else ""


def _separator(source: str) -> str:
    kind = source.lower().removesuffix(".gz").rsplit(".", 1)[-1]
    return {"tsv": "tabs", "csv": "commas"}.get(kind, "its own field each")


def rows_of(path: str | Path, *, owner: str, split: str | None = None) -> Iterator[tuple[Place, Row]]:
    """The rows of a file or folder that a user named, one after the other, each with its place.

    Args:
        path: a file of a known ending (also .gz), a folder of `datasets.save_to_disk`, or a folder with files named after
            their split, such as one of the hub's cache.
        owner: what messages call the caller.
        split: "train", "val" or "test"; None takes the only one that there is.
    """
    for source in user_sources(path, owner=owner, split=split):
        for row, number in source.rows():
            yield Place(source.name, number), row


def read_table(path: str | Path, *, owner: str | None = None, split: str | None = None) -> Table:
    """All rows of a file or folder.

    Args:
        path: as `rows_of` takes it; without an owner only what `stream_rows` takes.
        owner: what messages call the caller.
        split: as of `rows_of`.
    """
    if owner is None:
        source = Path(path)
        return _table(str(source), [(Place(str(source), number), row) for row, number in stream_rows(source)])
    return _table(str(path), list(rows_of(path, owner=owner, split=split)))


def read_sources(sources: Sequence[RowSource]) -> Table:
    """All rows of some sources.

    Args:
        sources: at least one.
    """
    placed = [(Place(source.name, number), row) for source in sources for row, number in source.rows()]
    return _table(sources[0].name, placed)


def _table(name: str, placed: list[tuple[Place, Row]]) -> Table:
    columns = list(dict.fromkeys(column for _, row in placed for column in row))
    rows = [row if len(row) == len(columns) else {column: row.get(column) for column in columns} for _, row in placed]
    one = {place.source for place, _ in placed} == {name}
    lines = [place.row for place, _ in placed]
    return Table(name, columns, rows, lines, None if one else [place.source for place, _ in placed])


def read_lines(path: Path) -> list[str]:
    """The lines of a text file, which may be compressed; only a line feed ends one.

    A file that is missing, empty or not UTF-8 is an error.

    Args:
        path: the file.
    """
    if not path.is_file():
        raise no_such_file(path)
    lines = [line.removesuffix("\n").removesuffix("\r") for line, _ in lines_of(path)]
    while lines and not lines[-1]:
        lines.pop()
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path}: the file is empty; at least one row is needed")
    return lines
