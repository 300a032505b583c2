"""What all readers of rows share: schemas by name or guessed from the columns, renamed columns, tags, and counts of bad rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import chain, islice
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from fulgurite.data.records.findings import Finding, Tally, place
from fulgurite.data.sources.formats import Numbered, Row
from fulgurite.data.sources.locate import RowSource, short_name

__all__ = [
    "ON_BAD_ROW",
    "BadRow",
    "Read",
    "RowReader",
    "Schema",
    "column_names",
    "filled",
    "fitting_schema",
    "records_of",
    "short_name",
]

_AUTO_ROWS = 50
_FEW = 0.1  # of the rows

ON_BAD_ROW = ("few", "skip", "error")


class Record(Protocol):
    """What rows become: a dataclass with these fields."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def where(self) -> str: ...

    @property
    def tag(self) -> str | None: ...


Item = TypeVar("Item", bound=Record)
Read = Callable[[Row, str, int], Iterator["Item | Finding"]]


class BadRow(Exception):
    """A row that is no record: the reason that it is counted by, and what was found."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class Schema(Generic[Item]):
    """A published layout of rows.

    Attributes:
        needed: Columns without which a row is none of this schema.
        optional: Columns that are read where they are.
        read: Makes records of a row with its source and number.
        looks: Whether a source, by its name and its first whole row, is of this schema rather than another with its columns.
        weak: Whether the columns say so little that further columns of text speak against a guess of this schema.
    """

    needed: tuple[str, ...]
    optional: tuple[str, ...]
    read: Read[Item]
    looks: Callable[[str, Row], bool] | None = None
    weak: bool = False


class RowReader(Generic[Item]):
    """Reads sources one after the other, as one stream of records; the base of the readers.

    A reader is a table of functions, one for each schema, and what it checks of their records.

    After a reading `tally` holds what was found, and `schemas` the schema of each source by its name.

    Attributes:
        noun: What messages call a record.
        table: The schemas by name, those that `auto` prefers first.

    Args:
        sources: what to read.
        schema: a name of `table`, or "auto" to guess it from the columns of each source.
        columns: the source's column for columns of the schema that are called otherwise there.
        on_bad_row: rows that are no record are counted and left out ("skip"), as long as they are at most a tenth of all ("few"),
            or the first one stops the reading ("error").
        tags: keep records of these tags only.
        tag_sources: give records without a tag of their own the group, or name, of their source; "all": every record.
    """

    noun: ClassVar[str]
    table: dict[str, Schema[Item]]

    @classmethod
    def register(cls, name: str, schema: Schema[Item]) -> None:
        """Adds a schema to this class's table; `auto` prefers it to those that stand there.

        Args:
            name: what `schema` options call it.
            schema: its columns and the function that reads a row.

        Raises:
            ValueError: a name that is taken.
        """
        if name in cls.table or name == "auto":
            raise ValueError(f"{cls.__name__}: {name!r} is the name of another schema; take one that is free")
        others = dict(cls.table)
        cls.table.clear()
        cls.table.update({name: schema, **others})

    def __init__(
        self,
        sources: Sequence[RowSource],
        schema: str = "auto",
        columns: Mapping[str, str] | None = None,
        on_bad_row: str = "skip",
        tags: Sequence[str] | None = None,
        tag_sources: bool | Literal["all"] = False,
    ) -> None:
        name = type(self).__name__
        if schema != "auto" and schema not in self.table:
            near = get_close_matches(schema, self.table, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "choose one of them"
            raise ValueError(f"{name}: schema {schema!r}; allowed are auto, {', '.join(self.table)}; {hint}")
        if on_bad_row not in ON_BAD_ROW:
            raise ValueError(f"{name}: on_bad_row is {on_bad_row!r}; allowed are {', '.join(map(repr, ON_BAD_ROW))}")
        known = {column for each in self.table.values() for column in (*each.needed, *each.optional)}
        unknown = sorted(set(columns or ()) - known)
        if unknown:
            raise ValueError(
                f"{name}: columns renames {', '.join(map(repr, unknown))}; the schemas' columns are "
                f"{', '.join(sorted(known))}; write the schema's column first and the file's after it"
            )
        self.sources = sources
        self.schema = schema
        self.columns = dict(columns or {})
        self.on_bad_row = on_bad_row
        self.tags = None if tags is None else set(tags)
        self.tag_sources = tag_sources
        self.tally = Tally()
        self._bad = 0  # rows with something that is left out
        self.schemas: dict[str, str] = {}

    def _checked(self, item: Item) -> Iterator[Item | Finding]:
        """A record as it is handed on, and what is wrong with it."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Item]:
        self.tally = Tally()
        self._bad = 0
        self._check_columns()
        for source in self.sources:
            yield from self._source(source)
        if self.tally.kept == 0:
            found = "\n  ".join(self.tally.lines())
            only = f" with a tag of {', '.join(sorted(self.tags))}" if self.tags is not None else ""
            raise ValueError(
                f"{type(self).__name__}: none of {self.tally.rows} rows of {_listed(self.sources)} is a {self.noun}{only}; "
                f"correct them, or give schema or columns\n  {found}".rstrip()
            )
        if self.on_bad_row == "few" and self._bad > _FEW * self.tally.rows:
            found = "\n  ".join(self.tally.lines())
            raise ValueError(
                f"{type(self).__name__}: {self._bad} of {self.tally.rows} rows of {_listed(self.sources)} would be left out "
                f"({self._bad / self.tally.rows:.0%}); allowed without a word is a tenth; correct them, give schema or columns, or "
                f"accept it with on_bad_row='skip'\n  {found}"
            )

    def _source(self, source: RowSource) -> Iterator[Item]:
        rows: Iterator[Numbered] = ((self._renamed(row), number) for row, number in source.rows())
        first = list(islice(rows, _AUTO_ROWS))
        schema = self.schemas[source.name] = self._schema(source.name, [row for row, _ in first])
        for row, number in chain(first, rows):
            self.tally.rows += 1
            if "tools" not in self.table[schema].optional and filled(row.get("tools")):
                where, told = place(source.name, number), f"schema {schema} reads none; take them out, or take messages"
                items: Iterator[Item | Finding] = iter([Finding(where, "tools that are not read", told)])
            else:
                items = records_of(self.table[schema], row, source.name, number, self._checked)
            bad = False
            for item in items:
                if isinstance(item, Finding):
                    bad |= item.lost
                    if item.lost and self.on_bad_row == "error":
                        raise ValueError(
                            f"{item.where}: {item.reason}: {item.detail}; correct the row, or leave such rows out with "
                            "on_bad_row='skip'"
                        )
                    self.tally.add(item.where, item.reason, item.detail, item.lost)
                    continue
                if self.tag_sources == "all" or (item.tag is None and self.tag_sources):
                    item = replace(item, tag=source.group or short_name(source.name))
                if self.tags is not None and item.tag is None:
                    self.tally.add(item.where, "no tag", f"wanted are {', '.join(sorted(self.tags))}")
                elif self.tags is None or item.tag in self.tags:
                    self.tally.kept += 1
                    yield item
            self._bad += bad

    def _check_columns(self) -> None:
        """Refuses columns of the files that no row has: the schema's own would be read in their place, if there."""
        missing = set(self.columns.values())
        found: dict[str, None] = {}
        for source in self.sources:
            if not missing:
                return
            for row, _ in source.rows():
                missing.difference_update(row)
                if not missing:
                    return
                found.update(dict.fromkeys(row))
        if missing and self.sources:
            near = [match for column in sorted(missing) for match in get_close_matches(column, found, n=1)]
            hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
            raise ValueError(
                f"{type(self).__name__}: columns names {', '.join(map(repr, sorted(missing)))}, which no row of "
                f"{_listed(self.sources)} has; found {', '.join(map(repr, found)) or 'none'}; correct columns, or leave it "
                f"out.{hint}"
            )

    def _tell_unread(self, schema: str, found: Sequence[str], name: str, rows: Sequence[Row]) -> None:
        """Names the columns that a guessed schema leaves out; refuses a weak guess that leaves out texts."""
        used = {*self.table[schema].needed, *self.table[schema].optional, *self.columns.values()}
        left = [column for column in found if column not in used and any(filled(row.get(column)) for row in rows)]
        texts = [column for column in left if _holds_text(column, rows)]
        if texts and self.table[schema].weak:
            raise ValueError(
                f"{name}: only {', '.join(map(repr, self.table[schema].needed))} would be read, and {', '.join(map(repr, texts))} "
                f"hold text too; give schema={schema!r} to read it alone, or another schema with columns, such as "
                f"schema='prompt_completion' and columns={{'prompt': {self.table[schema].needed[0]!r}, 'completion': {texts[0]!r}}}"
            )
        if left:
            self.tally.add(name, f"columns that schema {schema} does not read: {', '.join(left)}", lost=False)

    def _renamed(self, row: Row) -> Row:
        if not self.columns:
            return row
        return {**row, **{ours: row[theirs] for ours, theirs in self.columns.items() if theirs in row}}

    def _schema(self, name: str, rows: list[Row]) -> str:
        found = list({column: None for row in rows for column in row})
        if self.schema == "auto":
            schema = fitting_schema(self.table, found, name, rows)
            self._tell_unread(schema, found, name, rows)
            return schema
        missing = [column for column in self.table[self.schema].needed if column not in found]
        if missing:
            near = [match for column in missing for match in get_close_matches(column, found, n=1)]
            hint = f" Did you mean {', '.join(map(repr, near))}?" if near else ""
            raise ValueError(
                f"{name}: no column {', '.join(map(repr, missing))}, which schema {self.schema!r} needs; found "
                f"{', '.join(map(repr, found)) or 'none'}; rename with columns, or take another schema.{hint}"
            )
        return self.schema


def records_of(
    schema: Schema[Item], row: Row, source: str, number: int, check: Callable[[Item], Iterator[Item | Finding]]
) -> Iterator[Item | Finding]:
    """The records of one row, and what is wrong with it: a missing column, or what reading and checking it found.

    Args:
        schema: how to read it.
        row: columns by name.
        source: where the row is from, for messages.
        number: its line.
        check: a record, or what is wrong with it.
    """
    missing = [name for name in schema.needed if name not in row]
    if missing:
        detail = f"no {', '.join(map(repr, missing))}; found {column_names(row)}"
        yield Finding(place(source, number), "missing column", detail)
        return
    try:
        for item in schema.read(row, source, number):
            if isinstance(item, Finding):
                yield item
            else:
                yield from check(item)
    except BadRow as error:
        yield Finding(place(source, number), error.reason, error.detail)


def _holds_text(column: str, rows: Sequence[Row]) -> bool:
    """Whether at least half of the values are texts of three words or more, or lists with such a text."""
    values: list[Any] = [row[column] for row in rows if filled(row.get(column))]
    texts = [" ".join(map(str, value)) if isinstance(value, (list, tuple)) else value for value in values]
    return bool(values) and 2 * sum(isinstance(t, str) and len(t.split()) > 2 for t in texts) >= len(values)


def fitting_schema(table: Mapping[str, Schema[Any]], found: Sequence[str], name: str, rows: Sequence[Row]) -> str:
    """The first schema whose columns are all found, and that the first row with something in each of them looks like.

    Args:
        table: schemas by name.
        found: names of the columns.
        name: of the source.
        rows: some rows.
    """
    for schema, parts in table.items():
        if not all(column in found for column in parts.needed):
            continue
        whole = (row for row in rows if all(row.get(column) not in (None, "", []) for column in parts.needed))
        row = next(whole, rows[0] if rows else None)
        if parts.looks is None or (row is not None and parts.looks(name, row)):
            return schema
    listed = "\n".join(f"  {schema}: {', '.join(parts.needed)}" for schema, parts in table.items())
    raise ValueError(
        f"{name}: the columns {', '.join(map(repr, found)) or '(none)'} fit no schema; allowed are those below; rename "
        f"columns with columns, e.g. columns={{'prompt': 'question'}}\n{listed}"
    )


def filled(value: object) -> bool:
    """Whether a value says anything: parquet and csv fill what a row lacks with nulls and empty lists.

    Args:
        value: of a column, or of a key.
    """
    return value is not None and value not in ("", [], {}, ())


def _listed(sources: Sequence[RowSource]) -> str:
    return ", ".join(source.name for source in sources[:3]) + (", …" if len(sources) > 3 else "")


def column_names(row: Mapping[str, Any]) -> str:
    """The names of a row's columns, for messages.

    Args:
        row: columns by name.
    """
    return ", ".join(map(repr, row)) or "none"
