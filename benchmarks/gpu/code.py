"""Which files a piece runs, and a hash of them: a piece whose code changed is run again.

A file of the package counts with its whole room (the folder below ``fulgurite/``), because rooms hand names on lazily and
by strings; then come the rooms that the files of this room import, and so on. A file of ``benchmarks/`` counts alone.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

__all__ = ["ROOT", "code_hash", "files_behind"]

ROOT = Path(__file__).resolve().parents[2]
# The register imports every benchmark, of which a piece runs one.
_REGISTER = "benchmarks.suite"


def code_hash(starts: Iterable[str], root: Path = ROOT) -> str:
    """A hash of the content of all files behind ``starts``.

    Args:
        starts: files and folders, relative to the root.
        root: of the checkout.
    """
    digest = hashlib.sha256()
    for path in files_behind(tuple(sorted(starts)), root):
        digest.update(f"{path.relative_to(root)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@cache
def files_behind(starts: tuple[str, ...], root: Path = ROOT) -> tuple[Path, ...]:
    """The files themselves, those that they import, and so on; sorted.

    Raises:
        FileNotFoundError: a start is not in the checkout.
    """
    waiting: list[Path] = []
    for start in starts:
        path = root / start
        if not path.exists():
            raise FileNotFoundError(f"benchmarks.gpu: {start} is not in {root}; name a file or folder of the checkout")
        waiting += _files_in(path)
    found: set[Path] = set()
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        if path.suffix == ".py":
            waiting += [each for module in _imports(path, root) for each in _of_module(module, root)]
    return tuple(sorted(found))


def _of_module(module: str, root: Path) -> list[Path]:
    words = module.split(".")
    if words[0] == "fulgurite" and len(words) > 1 and (root / "fulgurite" / words[1]).is_dir():
        return _files_in(root / "fulgurite" / words[1])
    if words[0] not in ("fulgurite", "benchmarks", "tests") or module.startswith(_REGISTER):
        return []
    # ``from a.b import c`` names a module c or something in a.b: whichever is a file counts.
    paths = [root.joinpath(*words[:n]) for n in range(1, len(words) + 1)]
    files = [file for path in paths for file in (path.with_suffix(".py"), path / "__init__.py")]
    return [file for file in files if file.is_file()]


def _files_in(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [each for each in path.rglob("*") if each.is_file() and "__pycache__" not in each.parts]


@cache
def _imports(path: Path, root: Path) -> tuple[str, ...]:
    package = ".".join(path.relative_to(root).parent.parts)
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            words = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*words, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return tuple(sorted(found))
