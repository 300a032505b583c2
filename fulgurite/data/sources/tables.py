"""Reading json, jsonl, csv, tsv and parquet into rows, with errors that name file, line and column.

| ending | content |
|---|---|
| .json | a list of objects, or an object that holds exactly one list of objects |
| .jsonl, .ndjson | one object per line; empty lines are skipped |
| .csv | a header line, then rows; quotes as in RFC 4180 |
| .tsv | a header line, then rows; quotes are literal characters, as in GLUE |
| .parquet | any table of flat columns |

Text is UTF-8, with or without a byte order mark.
"""

import csv
import io
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fulgurite.data.sources.json_list import unreadable

__all__ = ["Table", "read_lines", "read_table", "read_text"]

Row = dict[str, Any]


@dataclass
class Table:
    """Rows of one file.

    Args:
        source: the file's path, for messages.
        columns: the names found, in the order of the file.
        rows: one dictionary per row.
        lines: the line (or, where a file has no lines, the number) of each row, counted from 1.
    """

    source: str
    columns: list[str]
    rows: list[Row]
    lines: list[int]

    def require(self, *names: str) -> None:
        """Raises a ValueError unless all of `names` are columns."""
        for name in names:
            if name in self.columns:
                continue
            if len(self.columns) == 1 and len(names) > 1:
                only = self.columns[0]
                separator = next((f" The separator looks like {s!r}." for s in ";|,\t" if s in only), "")
                raise ValueError(
                    f"{self.source}: one column, {only!r}, was found; columns {', '.join(map(repr, names))} are "
                    f"needed; write them separated by {_separator(self.source)}.{separator}"
                )
            near = get_close_matches(name, self.columns, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"{self.source}: no column {name!r}; found {', '.join(map(repr, self.columns))}.{hint}")


def _separator(source: str) -> str:
    return {"tsv": "tabs", "csv": "commas"}.get(source.rsplit(".", 1)[-1].lower(), "its own field each")


def _check_exists(path: Path) -> None:
    if not path.is_file():
        beside = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        hint = f"; did you mean {str(path.parent / near[0])!r}?" if near else "; check the path"
        raise FileNotFoundError(f"{path}: no such file{hint}")


def read_text(path: Path) -> str:
    """The file's text, without byte order mark; a file that is missing, empty or not UTF-8 is an error."""
    _check_exists(path)
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path}, line {line}: byte {error.start} (0x{data[error.start]:02x}) is not UTF-8; save the file as UTF-8"
        ) from error
    if not text.strip():
        raise ValueError(f"{path}: the file is empty; at least one row is needed")
    return text


def read_lines(path: Path) -> list[str]:
    """The file's lines; only a line feed ends one (texts may hold other Unicode line separators)."""
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def read_table(path: str | Path) -> Table:
    """The rows of one file, by its ending."""
    path = Path(path)
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: ending {path.suffix!r} is not known; allowed are {', '.join(_READERS)}")
    table = reader(path)
    if not table.rows:
        raise ValueError(f"{path}: the file has columns but no row; at least one row is needed")
    return table


def _from_objects(path: Path, objects: list[Any], lines: list[int], unit: str) -> Table:
    columns: dict[str, None] = {}
    for item, line in zip(objects, lines, strict=True):
        if not isinstance(item, dict):
            raise ValueError(
                f"{path}, {unit} {line}: {type(item).__name__} was found; each row must be an object with named fields"
            )
        columns.update(dict.fromkeys(item))
    # A field that a row leaves out is None there, as it is when the same rows pass through parquet.
    names = list(columns)
    return Table(str(path), names, [{name: item.get(name) for name in names} for item in objects], lines)


def _read_json(path: Path) -> Table:
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        cut = " The file ends in the middle of a value: it looks cut off." if error.pos >= len(text.rstrip()) else ""
        if error.msg == "Extra data":
            cut = " One object per line belongs in a file that ends in .jsonl."
        raise ValueError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}).{cut}"
        ) from error
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{path}: JSON that cannot be read ({unreadable(error)}); correct it") from error
    if isinstance(content, dict):
        lists = [key for key, value in content.items() if isinstance(value, list)]
        if len(lists) != 1:
            raise ValueError(
                f"{path}: an object with {len(lists)} lists ({', '.join(map(repr, lists)) or 'none'}) was found; "
                "allowed are a list of rows or an object that holds exactly one"
            )
        content = content[lists[0]]
    if not isinstance(content, list):
        raise ValueError(f"{path}: {type(content).__name__} was found; a list of rows is needed")
    return _from_objects(path, content, list(range(1, len(content) + 1)), "row")


def _read_jsonl(path: Path) -> Table:
    objects, numbers = [], []
    lines = read_lines(path)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError as error:
            tail = ": it looks cut off" if error.pos >= len(line.rstrip()) or "Unterminated" in error.msg else ""
            raise ValueError(
                f"{path}, line {number}: not valid JSON ({error.msg} at column {error.colno}){tail}; "
                "each line must hold one whole object"
            ) from error
        except (RecursionError, ValueError) as error:
            raise ValueError(
                f"{path}, line {number}: JSON that cannot be read ({unreadable(error)}); correct it"
            ) from error
        numbers.append(number)
    return _from_objects(path, objects, numbers, "line")


def _read_csv(path: Path) -> Table:
    # The limit of 131072 characters per field is the csv module's own and global; texts are longer.
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    fields: list[list[str]] = []
    lines: list[int] = []
    while True:
        start = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {start}: {error}; close the quotes, or double those that belong to the text"
            ) from error
        if row:
            fields.append(row)
            lines.append(start)
    return _from_fields(path, fields, lines)


def _read_tsv(path: Path) -> Table:
    numbered = [(line.split("\t"), number) for number, line in enumerate(read_lines(path), 1) if line.strip()]
    return _from_fields(path, [row for row, _ in numbered], [number for _, number in numbered])


def _from_fields(path: Path, fields: list[list[str]], lines: list[int]) -> Table:
    header = [name.strip() for name in fields[0]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ValueError(f"{path}: the header names {', '.join(map(repr, twice))} more than once; rename the columns")
    for row, line in zip(fields[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise ValueError(
                f"{path}, line {line}: {len(row)} fields were found; the header has {len(header)} "
                f"({', '.join(map(repr, header))}); every line needs as many"
            )
    return Table(str(path), header, [dict(zip(header, row, strict=True)) for row in fields[1:]], lines[1:])


def _read_parquet(path: Path) -> Table:
    _check_exists(path)
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError(f"{path}: reading parquet needs pyarrow; pip install pyarrow") from error
    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path}: not a whole parquet file ({error}); write or download it again") from error
    return Table(str(path), list(table.column_names), table.to_pylist(), list(range(1, table.num_rows + 1)))


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}
