"""A JSON list of any length, decoded object by object; and what every format of text shares: opening a file and its errors."""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import IO, Any, cast

__all__ = [
    "LONGEST",
    "not_utf8",
    "open_bytes",
    "read_json",
    "row_object",
    "too_long",
    "unique_keys",
    "unreadable",
    "whole_stream",
]

LONGEST = 1 << 28  # bytes or characters of one row; a few kilobytes of gzip may hold any number of them
_BLOCK = 1 << 20
_NO_SPACE = re.compile(r"\S")
_NEAR = 16  # characters at the window's end in which an error may be the window's and not the file's


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed if its name ends in .gz."""
    return cast(IO[bytes], gzip.open(path, "rb")) if path.name.lower().endswith(".gz") else path.open("rb")


@contextmanager
def whole_stream(path: Path) -> Iterator[None]:
    """Turns the errors of a damaged gzip stream into one that names the file."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: not a whole gzip file ({error}); download or write it again") from error


def too_long(path: Path, line: int) -> ValueError:
    """The error for a line, or a value of JSON, that is longer than any row."""
    return ValueError(
        f"{path}, line {line}: a row of more than {LONGEST >> 20} MiB; no text of training is as long: check what the file holds, "
        "or split the row"
    )


def not_utf8(path: Path, line: int, position: int, value: int) -> ValueError:
    """The error for a byte that is not UTF-8."""
    return ValueError(f"{path}, line {line}: byte {position} (0x{value:02x}) is not UTF-8; save the file as UTF-8")


def unreadable(error: Exception) -> str:
    """What Python's decoder refuses of JSON that may be valid: nesting, and whole numbers of more than 4300 digits."""
    return "nested too deeply" if isinstance(error, RecursionError) else str(error).split(";")[0]


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `object_pairs_hook`; a ValueError where a key stands twice, of which Python keeps the last."""
    item = dict(pairs)
    if len(item) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object, and only one of its values could be read")
    return item


def row_object(item: object, where: str) -> dict[str, Any]:
    """The item, which must be an object."""
    if not isinstance(item, dict):
        raise ValueError(f"{where}: {type(item).__name__} was found; each row must be an object with named fields")
    return item


def read_json(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """The objects of a list, with their numbers from 1; an object that holds exactly one list is read whole.

    Args:
        path: the file.
    """
    text = _Characters(path)
    with text:
        first = text.peek()
        if not first:
            raise ValueError(f"{path}: the file has no row: it is empty, or was cut off; at least one is needed")
        if first != "[":
            text.read_all()
            yield from _from_object(path, text)
            return
        text.position += 1
        if text.peek() == "]":
            return
        for number in count(1):
            yield row_object(text.value(), f"{path}, row {number}"), number
            mark = text.peek()
            text.position += 1
            if mark == "]":
                break
            if mark != ",":
                raise text.error("a comma or the list's end was expected")
        if text.peek():
            raise text.error("something follows the list; one object per line belongs in a file that ends in .jsonl")


def _from_object(path: Path, text: _Characters) -> Iterator[tuple[dict[str, Any], int]]:
    content = text.value()
    if text.peek():
        raise text.error("something follows the value; one object per line belongs in a file that ends in .jsonl")
    lists = [key for key, value in content.items() if isinstance(value, list)] if isinstance(content, dict) else []
    if len(lists) != 1:
        names = ", ".join(map(repr, lists)) or "none"
        found = f"an object with {len(lists)} lists ({names})" if isinstance(content, dict) else type(content).__name__
        raise ValueError(f"{path}: {found} was found; allowed are a list of rows or an object that holds exactly one")
    for number, item in enumerate(content[lists[0]], 1):
        yield row_object(item, f"{path}, row {number}"), number


class _Characters:
    """A file's text with a window that moves over it; `value` decodes the JSON value that stands next."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.buffer = ""
        self.position = 0
        self.passed_lines = 0
        self.passed_bytes = 0
        self.ended = False
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.json = json.JSONDecoder(object_pairs_hook=unique_keys)

    def __enter__(self) -> None:
        self.file = open_bytes(self.path)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.file.close()

    def more(self, size: int = _BLOCK) -> None:
        """Drops what was consumed and reads on."""
        with whole_stream(self.path):
            block = self.file.read(size)
        self.ended = len(block) == 0
        if self.passed_bytes == 0 and block.startswith(codecs.BOM_UTF8):
            self.passed_bytes, block = len(codecs.BOM_UTF8), block.removeprefix(codecs.BOM_UTF8)
        self.passed_lines += self.buffer.count("\n", 0, self.position)
        pending = len(self.decoder.getstate()[0])
        try:
            text = self.decoder.decode(block, self.ended)
        except UnicodeDecodeError as error:
            good = error.object[: error.start].count(b"\n")
            line = self.passed_lines + self.buffer.count("\n", self.position) + good + 1
            value = error.object[error.start]
            raise not_utf8(self.path, line, self.passed_bytes - pending + error.start, value) from error
        self.passed_bytes += len(block)
        self.buffer = self.buffer[self.position :] + text
        self.position = 0

    def read_all(self) -> None:
        """Reads the rest of the file."""
        while not self.ended:
            self.more(LONGEST)
            if len(self.buffer) > LONGEST:
                raise ValueError(
                    f"{self.path}: an object of more than {LONGEST >> 20} MiB around the rows, which would have to be read whole; "
                    "write the rows as a list, or one object per line in a file that ends in .jsonl"
                )

    def peek(self) -> str:
        """The next character that is no white space, which then stands at `position`; "" at the end."""
        while True:
            found = _NO_SPACE.search(self.buffer, self.position)
            self.position = len(self.buffer) if found is None else found.start()
            if found is not None:
                return found[0]
            if self.ended:
                return ""
            self.more()

    def value(self) -> Any:
        """The value that stands next."""
        self.peek()
        size = _BLOCK
        while True:
            try:
                value, self.position = self.json.raw_decode(self.buffer, self.position)
                return value
            except RecursionError as error:
                raise self.error(unreadable(error)) from error
            except json.JSONDecodeError as error:
                # An error this close to the window's end may be the window's, not the file's.
                unread = not self.ended and (error.pos >= len(self.buffer) - _NEAR or "Unterminated" in error.msg)
                if not unread:
                    cut = error.pos >= len(self.buffer.rstrip()) or "Unterminated" in error.msg
                    self.position = min(error.pos, len(self.buffer))
                    raise self.error(error.msg + ("; the file looks cut off" if self.ended and cut else "")) from error
                self.more(size)
                if len(self.buffer) > LONGEST:
                    raise too_long(self.path, self.passed_lines + 1) from error
                size *= 2  # a long value is decoded again and again: doubling keeps that linear
            except ValueError as error:
                raise self.error(unreadable(error)) from error

    def error(self, message: str) -> ValueError:
        """An error at `position`."""
        if not self.buffer[self.position :].strip() and self.ended:
            message += "" if "cut off" in message else "; the file looks cut off"
        line = self.passed_lines + self.buffer.count("\n", 0, self.position) + 1
        return ValueError(f"{self.path}, line {line}: not valid JSON ({message})")
