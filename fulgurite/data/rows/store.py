"""The cache of tokenised rows: its folder, its keys with the one number of its format, and its files.

Rows of conversations lie in a file that is written piece by piece and read by memory mapping. It is a safetensors file (any
reader of the format opens it): eight bytes with the length of a JSON header, the header, then the tensors one after the
other, those of eight bytes per number first, so that each lies aligned. Until all rows are known each tensor grows in a file
of its own; these files are joined under a temporary name, and the result is renamed. Neither texts nor tokens ever have to
fit into memory, and processes that read the file share its pages.

Beside the tokens the file holds, for every record that was read, a hash of its group, and for every row the number of its
record. The rows for training, those held out for validation and those of a limit are selections of one file, so that its
source is read once for all of them. What was left out, the names of the tags and a checksum travel in the header's metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fulgurite.data.rows.checksums import CHECKSUM, check, checksum, new_digest, read_checked, write_checked
from fulgurite.data.rows.encoded import EncodedRows
from fulgurite.whole_files import CACHE_ADVICE, scratch_folder, whole_file

__all__ = [
    "FORMAT",
    "EncodedRow",
    "MappedRows",
    "TokenWriter",
    "cache_key",
    "default_cache_dir",
    "load_or_build",
    "load_or_write",
    "open_rows",
]

FORMAT = 2  # raise it when any rows are read, encoded or laid out in another way: older caches are then not read

_log = logging.getLogger(__name__)
# Name in the file, numpy's type, the format's type; the wide ones first.
_KINDS = {
    "offsets": (np.int64, "I64"),
    "target_offsets": (np.int64, "I64"),
    "group": (np.int64, "I64"),
    "input_ids": (np.int32, "I32"),
    "target_ids": (np.int32, "I32"),
    "full_length": (np.int32, "I32"),
    "tag": (np.int32, "I32"),
    "record": (np.int32, "I32"),
    "supervised": (np.bool_, "BOOL"),
}
_TYPES = {kind: dtype for dtype, kind in _KINDS.values()}
_ALIGN = 8

# Token ids; marks "supervised" or target ids; tokens before shortening; what was done to the row, if anything.
EncodedRow = tuple[list[int], Sequence[Any], int, "str | None"]


class MappedRows(EncodedRows):
    """Rows whose tensors are pages of a file. Sent to another process, it opens the file there.

    Attributes:
        groups: A hash of the group of every record that was read, also of those without rows, (records,) int64.
        record: The number of each row's record, (rows,) int32.

    Args:
        path: a file written by `TokenWriter`.
        changed: tensors that replace those of the file; None takes one away.
    """

    def __init__(self, path: Path, changed: dict[str, Tensor | None] | None = None) -> None:
        self.path = path
        self.changed = changed or {}
        tensors, self.metadata = _map(path)
        self.metadata.pop(CHECKSUM, None)
        self.groups, self.record = tensors.pop("group"), tensors.pop("record")
        merged = {**tensors, **self.changed}
        super().__init__({name: tensor for name, tensor in merged.items() if tensor is not None})

    def __reduce__(self) -> tuple[Any, ...]:
        return MappedRows, (self.path, self.changed)

    def with_tag(self, tag: Tensor | None) -> MappedRows:
        """The same rows with other tag numbers.

        Args:
            tag: (rows,) int32; None for rows without tags.
        """
        return MappedRows(self.path, {**self.changed, "tag": tag})


def open_rows(path: Path) -> MappedRows:
    """The rows of a file written by `TokenWriter`; a file that is not whole, or whose content has changed, is a ValueError.

    Args:
        path: the file, which is read once from the beginning to the end.
    """
    rows = MappedRows(path)
    tensors, metadata = _map(path)
    check(path, tensors, metadata)
    return rows


def _map(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise ValueError(f"{path}: not a whole safetensors file; delete it, and it is made again")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
        except ValueError as error:
            raise ValueError(f"{path}: not a whole safetensors file ({error}); delete it") from error
    metadata = header.pop("__metadata__", {})
    start = 8 + length
    ends = [entry["data_offsets"][1] for entry in header.values()]
    if start + max(ends, default=0) != size:
        raise ValueError(f"{path}: {size} bytes; {start + max(ends, default=0)} are needed; delete it")
    # "c": private pages, writable in memory only, as torch has no tensors that cannot be written.
    pages = np.memmap(path, np.uint8, mode="c")
    tensors = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        values: Any = pages[start + first : start + last].view(np.ndarray).view(_TYPES[entry["dtype"]])
        tensors[name] = torch.from_numpy(values)
    return tensors, metadata


class TokenWriter:
    """Writes rows one after the other; a context manager that leaves nothing behind unless `finish` was called.

    Args:
        path: the file to make.
        seq2seq: rows have target ids instead of marks.
    """

    def __init__(self, path: Path, seq2seq: bool = False) -> None:
        self.path = path
        names = ["offsets", "input_ids", "full_length", "tag", "group", "record"]
        names += ["target_offsets", "target_ids"] if seq2seq else ["supervised"]
        self.names = [name for name in _KINDS if name in names]
        self.seq2seq = seq2seq
        self._digests = {name: new_digest() for name in self.names}
        self._tag_numbers: dict[str, int] = {}
        self.rows = 0
        self.records = 0
        self._ends = {"offsets": 0, "target_offsets": 0}
        self._stack = ExitStack()

    def __enter__(self) -> TokenWriter:
        with ExitStack() as stack:
            self.folder = stack.enter_context(scratch_folder(self.path, "the tokenised rows", CACHE_ADVICE))
            self._files = {n: stack.enter_context((self.folder / n).open("wb")) for n in self.names}
            self._stack = stack.pop_all()
        for name in ("offsets", "target_offsets"):
            if name in self._files:
                self._put(name, [0])
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add_records(self, groups: Sequence[int]) -> int:
        """Appends records, which rows may follow for; returns the number of the first of them.

        Args:
            groups: a hash of each record's group, below 2⁶³.
        """
        self._put("group", groups)
        self.records += len(groups)
        return self.records - len(groups)

    def add(self, rows: Sequence[tuple[EncodedRow, str | None]], records: Sequence[int] | None = None) -> None:
        """Appends rows.

        Args:
            rows: each with the tag of its conversation.
            records: the number of each row's record, ascending; None where nobody asks.
        """
        ids = [token for row, _ in rows for token in row[0]]
        second = [item for row, _ in rows for item in row[1]]
        if not self.seq2seq and len(second) != len(ids):
            raise ValueError(f"TokenWriter: {len(second)} marks for {len(ids)} tokens; every token needs one mark")
        self._put("input_ids", ids)
        self._put_ends("offsets", [len(row[0]) for row, _ in rows])
        self._put("full_length", [row[2] for row, _ in rows])
        self._put("target_ids" if self.seq2seq else "supervised", second)
        if self.seq2seq:
            self._put_ends("target_offsets", [len(row[1]) for row, _ in rows])
        for _, tag in rows:
            if tag is not None:
                self._tag_numbers.setdefault(tag, len(self._tag_numbers))
        self._put("tag", [-1 if tag is None else self._tag_numbers[tag] for _, tag in rows])
        self._put("record", [-1] * len(rows) if records is None else records)
        self.rows += len(rows)

    def _put(self, name: str, values: Sequence[Any]) -> None:
        self._append(name, np.asarray(values, dtype=_KINDS[name][0]).tobytes())

    def _append(self, name: str, content: bytes) -> None:
        self._files[name].write(content)
        self._digests[name].update(content)

    def _put_ends(self, name: str, lengths: Sequence[int]) -> None:
        ends = self._ends[name] + np.cumsum(np.asarray(lengths, dtype=np.int64))
        self._append(name, ends.tobytes())
        self._ends[name] = int(ends[-1]) if len(ends) else self._ends[name]

    def finish(self, metadata: dict[str, str]) -> None:
        """Joins the parts and gives the file its name.

        Args:
            metadata: texts to keep in the header.
        """
        for file in self._files.values():
            file.close()
        texts = {**metadata, "tag_names": json.dumps(list(self._tag_numbers))}
        header: dict[str, Any] = {"__metadata__": texts}
        position = 0
        parts = []
        for name in self.names:
            dtype, kind = _KINDS[name]
            size = (self.folder / name).stat().st_size
            shape = [size // np.dtype(dtype).itemsize]
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [position, position + size]}
            position += size
            parts.append((name, np.dtype(dtype).name, *shape, self._digests[name].hexdigest()))
        texts[CHECKSUM] = checksum(parts, texts)
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % _ALIGN)
        with whole_file(self.path) as scratch, scratch.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for name in self.names:
                with (self.folder / name).open("rb") as part:
                    shutil.copyfileobj(part, out, 1 << 20)
                (self.folder / name).unlink()


def load_or_write(path: Path, write: Callable[[], None]) -> MappedRows:
    """The rows in `path`; `write` makes the file where it is missing or damaged.

    Args:
        path: the cache's entry.
        write: makes it.
    """
    if path.is_file():
        try:
            return open_rows(path)
        except (ValueError, KeyError, TypeError, OSError) as error:
            _log.warning("the cache entry %s is damaged (%s); it is built again", path, error)
    write()
    return MappedRows(path)


def default_cache_dir() -> Path:
    """$FULGURITE_CACHE, or ~/.cache/fulgurite."""
    return Path(os.environ.get("FULGURITE_CACHE") or Path.home() / ".cache" / "fulgurite")


def cache_key(*parts: Any) -> str:
    """The sha256, in hexadecimal, of `parts`, which may be anything that JSON can write."""
    digest = hashlib.sha256()
    for part in (FORMAT, *parts):
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def load_or_build(folder: Path, key: str, build: Callable[[], EncodedRows]) -> EncodedRows:
    """The entry `key` of the cache in `folder`; `build` makes it where it is missing or damaged."""
    from safetensors import SafetensorError

    path = folder / f"{key}.safetensors"
    if path.is_file():
        try:
            return EncodedRows(read_checked(path)[0])
        except (SafetensorError, ValueError, OSError) as error:
            _log.warning("the cache entry %s is damaged (%s); it is built again", path, error)
    encoded = build()
    with whole_file(path, "the tokenised rows", CACHE_ADVICE) as scratch:
        write_checked(encoded.tensors, scratch, {})
    return encoded
