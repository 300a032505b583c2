"""`null` for an option that needs a value: jsonargparse takes it, and the class fails with it later, in words of its own."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["refuse_nulls"]

_MAY_BE_NONE = ("None", "Optional", "Any", "object")


def refuse_nulls(section: Any) -> None:
    """Refuse a `null` where the class has a value by default and its type admits no None.

    Args:
        section: the configuration of a model or of data: ``class_path`` with ``init_args``, which may hold further classes.

    Raises:
        ValueError: the first such option.
    """
    for name, option, kind in _nulls(section):
        raise ValueError(
            f"{name}: {option} was given null, which stands for no value; allowed is {kind}; leave it out for its default, or "
            "write ./null if a file or folder of that name is meant"
        )


def _nulls(section: Any) -> Iterator[tuple[str, str, str]]:
    """Class, option and type of each null that has no place."""
    path, options = _get(section, "class_path"), _get(section, "init_args")
    if not isinstance(path, str) or options is None:
        return
    package, _, name = path.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(package), name).__init__).parameters
    for option, value in (options if isinstance(options, Mapping) else vars(options)).items():
        parameter = parameters.get(option)
        if value is None and parameter is not None and parameter.default not in (None, inspect.Parameter.empty):
            kind = inspect.formatannotation(parameter.annotation).strip("'")
            if not any(word in kind for word in _MAY_BE_NONE):
                yield name, option, kind
        yield from _nulls(value)


def _get(section: Any, key: str) -> Any:
    return section.get(key) if isinstance(section, Mapping) else getattr(section, key, None)
