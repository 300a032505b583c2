"""What the values of old files are compared with, and under which circumstances they are read."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

IDS = [[1, 17, 230, 99, 512, 44, 7, 2], [1, 300, 61, 5, 900, 33, 0, 0]]
MASK = [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 0]]
MTIME = 1_700_000_000  # of checkpoints: `generate --file` and `score` know a checkpoint by it
Values = dict[str, Any]


def names(folder: Path) -> list[str]:
    """What lies in a folder, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def copy(folder: Path, target: Path) -> Path:
    """A writable copy in which checkpoints have the time that they were made with (a checkout forgets it)."""
    shutil.copytree(folder, target)
    for file in target.rglob("*.ckpt"):
        os.utime(file, (MTIME, MTIME))
    return target


def differences(found: Any, expected: Any, where: str = "", tolerance: float = 2e-4) -> list[str]:
    """Where two results differ: numbers by more than `tolerance` (relative to 1 and to themselves), all else at all."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        lost = [f"{where}: no {key!r}" for key in expected if key not in found]
        both = (key for key in expected if key in found)
        return lost + [
            line for key in both for line in differences(found[key], expected[key], f"{where}/{key}", tolerance)
        ]
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        return [
            line
            for i, pair in enumerate(zip(found, expected, strict=True))
            for line in differences(*pair, f"{where}[{i}]", tolerance)
        ]
    numbers = (int, float)
    if isinstance(expected, numbers) and isinstance(found, numbers) and not isinstance(expected, bool):
        close = (
            math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)
            or (found != found) == (expected != expected) is True
        )
        return [] if close else [f"{where}: {found} instead of {expected}"]
    return [] if found == expected else [f"{where}: {found!r} instead of {expected!r}"]


@contextlib.contextmanager
def chdir(folder: Path) -> Iterator[None]:
    """contextlib.chdir of Python 3.11."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@contextlib.contextmanager
def cache_in(root: str) -> Iterator[None]:
    before = os.environ.get("FULGURITE_CACHE")
    os.environ["FULGURITE_CACHE"] = str(Path(root) / "cache")
    try:
        yield
    finally:
        os.environ.pop("FULGURITE_CACHE") if before is None else os.environ.update(FULGURITE_CACHE=before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink):
        yield


def entries(place: Path) -> dict[str, str]:
    files = sorted(place.glob("**/*.safetensors"))
    return {str(file.relative_to(place)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def first_logits(logits: torch.Tensor) -> list[float]:
    """The first numbers of what a model says of the last real tokens, and the mean of all."""
    last = logits.float() if logits.dim() == 2 else logits[:, 5].float()
    return [round(v, 5) for v in [*last[0, :3].tolist(), *last[-1, :3].tolist(), float(last.double().mean())]]


def number(value: float) -> float:
    return float(f"{value:.5g}")


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items() if key not in ("seconds", "date", "machine")}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return number(value) if isinstance(value, float) else value
