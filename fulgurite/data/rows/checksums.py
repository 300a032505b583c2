"""Checksums of cached tensors, by which a flipped bit is noticed when a cache is opened.

xxhash's 128 bits over the bytes of every tensor, its name, type and shape, and what else the file says; a gigabyte takes about
a tenth of a second. The checksum stands in the file's metadata. Files of earlier versions have none and are read as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from torch import Tensor

__all__ = ["CHECKSUM", "check", "checksum", "new_digest", "read_checked", "write_checked"]

CHECKSUM = "xxh3_128"  # its name in the metadata


def new_digest() -> Any:
    """A hash that takes the bytes of one tensor piece by piece: `update`, then `hexdigest`."""
    return xxhash.xxh3_128()


def checksum(digests: Iterable[tuple[str, str, int, str]], metadata: Mapping[str, str]) -> str:
    """The checksum of a whole file.

    Args:
        digests: of each tensor its name, its type in numpy's words, its number of elements, and the hash of its bytes.
        metadata: all other texts of the file.
    """
    whole = xxhash.xxh3_128()
    for part in sorted(digests):
        whole.update(repr(part).encode())
    for name, text in sorted(metadata.items()):
        if name != CHECKSUM:
            whole.update(repr((name, text)).encode())
    return whole.hexdigest()


def _of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """The checksum of a file with these tensors and texts."""
    parts = []
    for name, tensor in tensors.items():
        values = np.ascontiguousarray(tensor.detach().numpy())  # torch's own view of bytes refuses an expanded element
        parts.append((name, values.dtype.name, values.size, xxhash.xxh3_128_hexdigest(values.data)))
    return checksum(parts, metadata)


def check(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Compares a file's content with its checksum, if it has one.

    Args:
        path: the file, for the message.
        tensors: what it holds.
        metadata: its texts.

    Raises:
        ValueError: another content.
    """
    stored = metadata.get(CHECKSUM)
    if stored is not None and stored != _of(tensors, metadata):
        raise ValueError(
            f"{path}: its content is not what was written (the checksum differs); delete it, and it is made again"
        )


def read_checked(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and texts of a safetensors file, compared with its checksum.

    Args:
        path: the file.

    Raises:
        ValueError: another content than was written.
        safetensors.SafetensorError: not a whole file.
    """
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    check(path, tensors, metadata)
    metadata.pop(CHECKSUM, None)
    return tensors, metadata


def write_checked(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file with its checksum.

    Args:
        tensors: by name, on the CPU.
        path: the file.
        metadata: texts to keep in it.
    """
    from safetensors.torch import save_file

    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, {**metadata, CHECKSUM: _of(whole, metadata)})
