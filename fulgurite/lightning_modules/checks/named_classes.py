"""Classes and functions that a checkpoint names: what code may be imported for them.

A checkpoint may come from anybody, and importing a module runs it. `python -m` puts the current folder first on Python's path, so
that a Python file beside a downloaded checkpoint would run because the checkpoint names it. Installed packages, folders of
PYTHONPATH and modules that the command line named already are the user's own choice.
"""

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["refuse_local_classes"]


def refuse_local_classes(path: str | Path, hyperparameters: dict[str, Any]) -> None:
    """Refuse a checkpoint that names a class or function which only the current folder has.

    Args:
        path: the checkpoint, for the message.
        hyperparameters: of the checkpoint.

    Raises:
        ValueError: its module would be imported from the current folder, which is on Python's path for no other reason
            than `python -m`.
    """
    here = os.getcwd()
    if not sys.path or sys.path[0] not in ("", here) or not _started_as_module():
        return
    for name in _class_paths(hyperparameters):
        package = name.partition(":")[0].partition(".")[0]
        if package in sys.modules or not package.isidentifier() or _found(package, sys.path[1:]):
            continue
        if _found(package, sys.path):
            raise ValueError(
                f"checkpoint {path}: its {name} would be imported from the current folder, {here}, and a checkpoint must not "
                "choose what code runs; if that code is yours, put PYTHONPATH=. before the command, or install it"
            )


def _started_as_module() -> bool:
    """Whether this is `python -m fulgurite`: a script's own folder is the user's choice."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name == "fulgurite.__main__"


def _class_paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("_class_path", "class_path") and isinstance(inner, str):
                yield inner
            elif key == "rewards" and not isinstance(
                inner, dict
            ):  # of RLModule, where module:function names a function
                named = [inner] if isinstance(inner, str) else list(inner)
                yield from (name for name in named if isinstance(name, str) and ":" in name)
                yield from _class_paths([other for other in named if not isinstance(other, str)])
            else:
                yield from _class_paths(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _class_paths(inner)


def _found(package: str, places: list[str]) -> bool:
    """Whether a package can be imported with these folders on the path; it is not imported."""
    before = sys.path
    sys.path = places
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False
    finally:
        sys.path = before
