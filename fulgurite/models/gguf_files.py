"""GGUF files, the format of llama.cpp: which file a name stands for, and a look at its header before anything reads it.

transformers dequantises such a file while it loads it, and makes configuration and tokenizer of the file's own description
(``gguf_file=``). Of a file that was cut short, or that is one part of several, it says nothing that a reader understands; here
each is one sentence. The header is read by our own few lines, because gguf's reader takes seconds for a large vocabulary.
"""

from __future__ import annotations

import functools
import math
import os
import struct
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

__all__ = ["GGUFHeader", "gguf_file", "gguf_source", "read_header"]

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_AGAIN = "download or copy it again"
_MOST = 1 << 32  # bytes of one string, or values of one array: more means that the file is no header at all


class GGUFHeader(NamedTuple):
    """What a GGUF file says of itself.

    Attributes:
        file: The file.
        architecture: In llama.cpp's words, such as "llama" or "qwen3".
        values: Its description by key; of an array only the length.
        tensors: By name, the type in ggml's words ("Q4_K"), and the number of scalars.
        offsets: By name, where the tensor begins in the file, in bytes.
    """

    file: Path
    architecture: str
    values: dict[str, Any]
    tensors: dict[str, tuple[str, int]]
    offsets: dict[str, int]

    @property
    def stored_as(self) -> str:
        """The type in which most of its scalars are stored."""
        sizes: Counter[str] = Counter()
        for kind, scalars in self.tensors.values():
            sizes[kind] += scalars
        return sizes.most_common(1)[0][0] if sizes else "nothing"


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a name stands for: the file itself, or the one in a folder without config.json; else None.

    Args:
        name: of a backbone: a file, a folder, or a hub id.

    Raises:
        ValueError: a folder with several such files, or with one part of a model.
    """
    place = Path(name)
    if place.suffix.lower() == ".gguf" and not place.is_dir():
        if not place.is_file():
            raise FileNotFoundError(
                f"backbone: {name}: no such file; give a GGUF file, a folder with a model, or a hub id"
            )
        return place
    if not place.is_dir() or any(
        (place / other).is_file() for other in ("config.json", "adapter.json", "adapter_config.json")
    ):
        return None
    found = sorted(file for file in place.iterdir() if file.suffix.lower() == ".gguf")
    if len(found) > 1:
        shown = ", ".join(file.name for file in found[:4]) + (" …" if len(found) > 4 else "")
        raise ValueError(f"backbone: the folder {name!r} holds {len(found)} GGUF files ({shown}); give one of them")
    return found[0] if found else None


def gguf_source(name: str) -> tuple[str, dict[str, str]]:
    """What transformers' ``from_pretrained`` takes for a name: the name and no option, or a folder and its ``gguf_file=``.

    Args:
        name: of a backbone: a file, a folder, or a hub id.

    Raises:
        ValueError, ImportError: of :func:`read_header`.
    """
    file = gguf_file(name)
    if file is None:
        return name, {}
    read_header(file)
    # The whole path: transformers would take a file of that name in the current folder before the one beside the configuration.
    return str(file.absolute().parent), {"gguf_file": str(file.absolute())}


def read_header(file: Path) -> GGUFHeader:
    """The header of a file that is whole.

    Args:
        file: to read; no tensors are read.

    Raises:
        ImportError: the package gguf is not installed.
        ValueError: the file is no GGUF, is cut short, or is one part of several.
    """
    state = file.stat()
    return _read(str(file), state.st_size, state.st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _read(path: str, size: int, _: int) -> GGUFHeader:
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ImportError:
        raise ImportError(
            f"backbone: {path} is a GGUF file, and the package that reads it is not installed; pip install 'fulgurite[gguf]'"
        ) from None
    with open(path, "rb") as stream:
        if (begin := stream.read(4)) != b"GGUF":
            pointer = "a pointer of Git LFS" if begin == b"vers" else "no GGUF file (it does not begin with GGUF)"
            raise ValueError(f"backbone: {path} is {pointer}; {_AGAIN}")
        try:
            version, tensors, pairs = _unpack(stream, "IQQ")
            if version not in (2, 3):
                raise ValueError(f"backbone: {path} is GGUF version {version}; allowed are 2 and 3, so convert it anew")
            values = dict(_pair(stream) for _ in range(pairs))
            table = [_tensor(stream) for _ in range(tensors)]
        except (struct.error, EOFError, UnicodeDecodeError, KeyError, OverflowError) as error:
            raise ValueError(
                f"backbone: {path} is not a whole GGUF file, its {size:,} bytes end within the header or do not fit it; {_AGAIN}"
            ) from error
        place = stream.tell()
    if int(values.get("split.count", 0)) > 1:
        raise ValueError(
            f"backbone: {path} is one of the {values['split.count']} parts of a model; join them first (llama-gguf-split --merge)"
        )
    align = int(values.get("general.alignment", 32))
    start = math.ceil(place / align) * align
    found, offsets, end = {}, {}, start
    for name, scalars, kind, offset in table:
        try:
            per_block, bytes_of_block = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
        except (ValueError, KeyError):
            raise ValueError(
                f"backbone: {path}: {name} is of ggml's type {kind}, which the installed gguf does not know; a newer one may"
            ) from None
        found[name] = (GGMLQuantizationType(kind).name, scalars)
        offsets[name] = start + offset
        end = max(end, start + offset + scalars // per_block * bytes_of_block)
    if end > size:
        raise ValueError(
            f"backbone: {path} is cut short: it has {size:,} bytes, and its header names {end:,}; {_AGAIN}"
        )
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not found:
        raise ValueError(
            f"backbone: {path} is a GGUF file without an architecture or without tensors, so that it is no model"
        )
    return GGUFHeader(Path(path), architecture, values, found, offsets)


def _pair(stream: BinaryIO) -> tuple[str, Any]:
    return _string(stream), _value(stream, _unpack(stream, "I")[0])


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        return _unpack(stream, _NUMBERS[kind])[0]
    inner, count = _unpack(stream, "IQ")
    if count > _MOST:
        raise EOFError
    if inner in _NUMBERS:
        stream.seek(count * struct.calcsize(f"<{_NUMBERS[inner]}"), os.SEEK_CUR)
    else:
        for _ in range(count):
            _value(stream, inner)
    return count


def _tensor(stream: BinaryIO) -> tuple[str, int, int, int]:
    """Name, scalars, type and offset."""
    name = _string(stream)
    sides = _unpack(stream, f"{_unpack(stream, 'I')[0]}Q")
    kind, offset = _unpack(stream, "IQ")
    return name, math.prod(sides), kind, offset


def _string(stream: BinaryIO) -> str:
    (length,) = _unpack(stream, "Q")
    if length > _MOST:
        raise EOFError
    text = stream.read(length)
    if len(text) < length:
        raise EOFError
    return text.decode("utf-8")


def _unpack(stream: BinaryIO, form: str) -> tuple[Any, ...]:
    form = f"<{form}"
    return struct.unpack(form, stream.read(struct.calcsize(form)))
