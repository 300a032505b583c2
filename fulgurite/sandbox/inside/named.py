"""Types of the standard library that travel as a name and plain fields: Decimal, Fraction, dates, range, views of a
dict, classes.

A type is added by one line in :data:`_TYPES`: its module and name, how to take it apart, how to build it. Modules are
imported when a value of theirs is met. numpy's scalars travel as Python's numbers, its arrays as dtype, shape and
bytes.
"""

import builtins
import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["FROM_NAME", "name_of"]


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _datetime_fields(item: Any) -> tuple[Any, ...] | None:
    if item.tzinfo is not None:
        return None  # a zone may be an object of the candidate's: it stays a handle
    return (item.year, item.month, item.day, item.hour, item.minute, item.second, item.microsecond, item.fold)


def _datetime(fields: Any) -> Any:
    return _class("datetime.datetime")(*fields[:7], fold=fields[7])


_Parts = tuple[Callable[[Any], Any], Callable[[Any], Any]]
_TYPES: dict[str, _Parts] = {
    "decimal.Decimal": (str, lambda fields: _class("decimal.Decimal")(_text(fields))),
    "fractions.Fraction": (
        lambda item: (item.numerator, item.denominator),
        lambda fields: _class("fractions.Fraction")(*fields),
    ),
    "datetime.date": (
        lambda item: (item.year, item.month, item.day),
        lambda fields: _class("datetime.date")(*fields),
    ),
    "datetime.datetime": (_datetime_fields, _datetime),
    "datetime.timedelta": (
        lambda item: (item.days, item.seconds, item.microseconds),
        lambda fields: _class("datetime.timedelta")(*fields),
    ),
    "builtins.range": (lambda item: (item.start, item.stop, item.step), lambda fields: range(*fields)),
    "builtins.dict_keys": (lambda item: list(item), lambda fields: dict.fromkeys(fields).keys()),
    "builtins.dict_items": (lambda item: list(item), lambda fields: dict(fields).items()),
    "builtins.ellipsis": (lambda item: (), lambda fields: ...),
    "builtins.type": (
        lambda item: item.__name__ if getattr(builtins, item.__name__, None) is item else None,
        lambda fields: _builtin_class(fields),
    ),
    "numpy.ndarray": (lambda item: _array_fields(item), lambda fields: _array(fields)),
}


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError("text expected")
    return value


def _builtin_class(name: Any) -> type:
    found = getattr(builtins, _text(name), None)
    if not isinstance(found, type):
        raise TypeError(f"{name} is no class of builtins")
    return found


def _array_fields(item: Any) -> tuple[str, tuple[int, ...], bytes] | None:
    return (item.dtype.str, tuple(item.shape), item.tobytes()) if item.dtype.kind in "biufcSU" else None


def _array(fields: Any) -> Any:
    numpy = importlib.import_module("numpy")
    dtype = numpy.dtype(_text(fields[0]))
    if dtype.kind not in "biufcSU":
        raise TypeError(f"arrays of {dtype} do not travel")
    return numpy.frombuffer(fields[2], dtype=dtype).reshape(fields[1]).copy()


FROM_NAME: dict[str, Callable[[Any], Any]] = {path: parts[1] for path, parts in _TYPES.items()}
FROM_NAME["number"] = lambda fields: fields


def name_of(item: Any) -> tuple[str, Any] | None:
    """The name and plain fields of a value of a type in the table; None for every other object."""
    cls = type(item)
    if cls.__module__ == "numpy" and cls.__name__ != "ndarray":
        return ("number", item.item()) if hasattr(item, "item") else None
    path = f"{cls.__module__}.{cls.__name__}"
    if path not in _TYPES:
        return None
    fields = _TYPES[path][0](item)
    return None if fields is None else (path, fields)
