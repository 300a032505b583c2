"""Tokenised rows on disk, keyed by everything that decides them.

The key is a sha256 over the rows themselves, what is done with them, the tokenizer's fingerprint and `VERSION`, so
that a changed file or option never meets an old entry. Entries are safetensors files, written to a temporary name and
renamed: processes that build the same entry at once do no harm. An entry that does not load is built again.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fulgurite.data.encoding import EncodedRows

__all__ = ["VERSION", "cache_key", "default_cache_dir", "load_or_build"]

VERSION = 1

_log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """$FULGURITE_CACHE, or ~/.cache/fulgurite."""
    return Path(os.environ.get("FULGURITE_CACHE") or Path.home() / ".cache" / "fulgurite")


def cache_key(*parts: Any) -> str:
    """The sha256, in hexadecimal, of `parts`, which may be anything that JSON can write."""
    digest = hashlib.sha256()
    for part in (VERSION, *parts):
        digest.update(json.dumps(part, sort_keys=True, ensure_ascii=True).encode() + b"\n")
    return digest.hexdigest()


def load_or_build(folder: Path, key: str, build: Callable[[], EncodedRows]) -> EncodedRows:
    """The entry `key` of the cache in `folder`; `build` makes it where it is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file, save_file

    path = folder / f"{key}.safetensors"
    if path.is_file():
        try:
            return EncodedRows(load_file(path))
        except (SafetensorError, ValueError, OSError) as error:
            _log.warning("the cache entry %s is damaged (%s); it is built again", path, error)
    encoded = build()
    temporary = folder / f".{key}.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary.touch()
    except OSError as error:
        raise OSError(
            f"the tokenised rows cannot be written to {folder} ({error}); set cache_dir or $FULGURITE_CACHE to a "
            "folder that can be written"
        ) from error
    try:
        save_file({name: tensor.contiguous() for name, tensor in encoded.tensors.items()}, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return encoded
