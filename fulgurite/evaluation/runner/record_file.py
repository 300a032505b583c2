"""A file of JSON lines that only grows: a header that says what its lines belong to, then one line a record, each on the disk
before the next one begins.

A process may be killed at any byte. A last line without its end is cut off at the next opening; anything else that is not whole
is an error, because then somebody else has written. One process writes at a time.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["IdentityError", "RecordFile", "differences", "read_records"]

_FORMAT = 1


class IdentityError(ValueError):
    """A file holds records of another identity."""


class RecordFile:
    """Opens a file for adding records; use it in a ``with`` block.

    Args:
        path: the file; it is made if it isn't there.
        kind: what the records are, such as "samples".
        identity: what every record depends on: plain data. A file with another identity is refused.
        unique: fields by which no two records are equal.
        replace: begin anew, whatever stands there.

    Attributes:
        records: those that stood there.
        repaired: bytes of a torn last line that were cut off.

    Raises:
        IdentityError: the file belongs to another run.
        ValueError: a line is damaged, or stands there twice.
        OSError: the file cannot be written, or another process writes it.
    """

    def __init__(
        self, path: Path, kind: str, identity: Mapping[str, Any], unique: tuple[str, ...], replace: bool = False
    ) -> None:
        self.path, self.kind, self.unique = path, kind, unique
        self.identity: dict[str, Any] = json.loads(json.dumps(identity))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            self._lock()
            if replace:
                os.ftruncate(self._handle, 0)
            self.records, self.repaired, self._end = self._take_up()
        except BaseException:
            os.close(self._handle)
            raise

    def __enter__(self) -> RecordFile:
        """The file."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes it."""
        self.close()

    def close(self) -> None:
        """Ends the writing; what was added is on the disk already."""
        os.close(self._handle)

    def add(self, record: Mapping[str, Any]) -> None:
        """Adds a record; afterwards it is on the disk.

        Raises:
            OSError: the disk is full or gone; what stood there before is whole.
        """
        self.extend([record])

    def extend(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Adds records; afterwards all of them are on the disk.

        Raises:
            OSError: the disk is full or gone; what stood there before is whole.
        """
        self._write("".join(json.dumps(record, ensure_ascii=True, default=str) + "\n" for record in records))

    def _write(self, line: str) -> None:
        data = line.encode()
        try:
            done = 0
            while done < len(data):
                done += os.pwrite(self._handle, data[done:], self._end + done)
            os.fsync(self._handle)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._end)
            raise OSError(
                error.errno,
                f"{self.path}: a record cannot be written ({error.strerror}); free some space and run the same command again, it "
                "goes on where it stopped",
            ) from error
        self._end += len(data)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows
            return
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OSError(f"{self.path}: another process writes it; wait for its end, or give another --out") from error

    def _take_up(self) -> tuple[list[dict[str, Any]], int, int]:
        """The records that are there, the torn bytes that were cut off, and the file's end."""
        data = os.pread(self._handle, os.fstat(self._handle).st_size, 0)
        end = data.rfind(b"\n") + 1
        torn = len(data) - end
        if torn:
            os.ftruncate(self._handle, end)
            os.fsync(self._handle)
        self._end = end
        if end == 0:
            self._write(json.dumps({"kind": self.kind, "format": _FORMAT, "identity": self.identity}) + "\n")
            _folder_to_disk(self.path.parent)
            return [], torn, self._end
        header, records = _parse(self.path, data[:end], self.unique)
        if header.get("kind") != self.kind or header.get("format") != _FORMAT:
            raise IdentityError(
                f"{self.path}: this is no file of {self.kind} of format {_FORMAT}; give another --out, or replace it with "
                "--overwrite true"
            )
        apart = differences(header.get("identity", {}), self.identity)
        if apart:
            raise IdentityError(
                f"{self.path} holds {self.kind} of another identity ({'; '.join(apart[:4])}{' …' if len(apart) > 4 else ''}); "
                "they are not mixed: give another --out, the same options as then, or --overwrite true to make them anew"
            )
        return records, torn, end


def read_records(path: Path, unique: tuple[str, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The identity and the records of a file, without changing it; a torn last line is left out.

    Args:
        path: the file.
        unique: fields by which no two records are equal.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: a damaged line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; generate the samples first (--phase generate)")
    data = path.read_bytes()
    header, records = _parse(path, data[: data.rfind(b"\n") + 1], unique)
    return header.get("identity", {}), records


def differences(there: Mapping[str, Any], here: Mapping[str, Any], lead: str = "") -> list[str]:
    """Where two identities differ, one text each: the dotted name and both values."""
    found = []
    for name in sorted({*there, *here}):
        left, right = there.get(name), here.get(name)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found += differences(left, right, f"{lead}{name}.")
        elif left != right:
            found.append(f"{lead}{name}: {_short(left)} there, {_short(right)} now")
    return found


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 48 else f"{text[:45]}…"


def _parse(path: Path, data: bytes, unique: tuple[str, ...]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and records of whole lines."""
    found: list[dict[str, Any]] = []
    places: dict[tuple[Any, ...], int] = {}
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ValueError(
                f"{path}, line {number}: damaged ({error}); restore the file, or --overwrite true"
            ) from error
        if not isinstance(value, dict):
            raise ValueError(f"{path}, line {number}: no record; restore the file, or --overwrite true")
        if number > 1:
            if lacking := [name for name in unique if name not in value]:
                raise ValueError(
                    f"{path}, line {number}: a record without {', '.join(lacking)}; restore the file, or --overwrite true"
                )
            key = tuple(value.get(name) for name in unique)
            if key in places:
                raise ValueError(
                    f"{path}, line {number}: {', '.join(map(str, key))} stands in line {places[key]} already; two processes have "
                    "written it: --overwrite true makes it anew"
                )
            places[key] = number
        found.append(value)
    return (found[0] if found else {}), found[1:]


def _folder_to_disk(folder: Path) -> None:
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
