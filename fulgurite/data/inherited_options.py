"""Options that subclasses share: each described once; a class describes those of its own, or one that means more there.

The descriptions become part of the classes' docstrings, where `--help` and `help()` find them. A class names its own options
alone; those of its base come into its signature by :func:`inherits_options`, so that the command line, YAML files and `help()` see
one flat list, and a misspelt name is an error.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

__all__ = ["documented", "inherits_options"]

Class = TypeVar("Class", bound=type)

_ARGS = "\nArgs:\n"
_ENTRY = re.compile(r"^ {4}(\w+): ", re.MULTILINE)


def documented(kind: Class, shared: Mapping[str, str]) -> Class:
    """Completes a class's docstring with the options of its signature that it does not describe itself, in the signature's order.

    They are described as by its base classes, else as in `shared`.

    Args:
        kind: a class with a docstring of Google's style; one without an `__init__` of its own is left as it is.
        shared: descriptions by name, for options that no base class describes.
    """
    if not kind.__doc__ or "__init__" not in kind.__dict__:
        return kind
    text, own = _described(kind)
    names = [name for name in inspect.signature(kind.__dict__["__init__"]).parameters if name != "self"]
    for parent in kind.__mro__[1:]:
        own = {**_described(parent)[1], **own}
    known = {name: f"    {name}: {shared[name]}" for name in names if name in shared}
    lines = [found for name in names if (found := own.get(name, known.get(name)))]
    kind.__doc__ = f"{text.rstrip()}\n{_ARGS}" + "\n".join(lines) + "\n"
    return kind


def inherits_options(
    base: type, *, without: Sequence[str] = (), shared: Mapping[str, str] | None = None, **defaults: Any
) -> Callable[[Class], Class]:
    """Puts the options of `base` behind a class's own, in the place of its last parameter `**name`.

    `__init__` is then called with every one of them, given or by default, and hands them on in one piece.

    Args:
        base: whose options are taken, with their types and defaults.
        without: names of those that the class does not have.
        shared: descriptions of options that no base class describes.
        defaults: defaults that differ.
    """

    def decorate(kind: Class) -> Class:
        own_init = kind.__dict__["__init__"]
        own = list(inspect.signature(own_init).parameters.values())
        rest = own.pop()
        assert rest.kind is inspect.Parameter.VAR_KEYWORD
        taken = {parameter.name for parameter in own} | set(without)
        given = inspect.signature(base.__init__).parameters.values()  # type: ignore[misc]
        flat = inspect.Parameter.POSITIONAL_OR_KEYWORD
        more = [p.replace(kind=flat, default=defaults.get(p.name, p.default)) for p in given if p.name not in taken]
        assert set(defaults) <= {parameter.name for parameter in more}
        signature = inspect.Signature([*own, *more])
        types = {**get_type_hints(base.__init__), **get_type_hints(own_init)}  # type: ignore[misc]

        @functools.wraps(own_init)
        def init(self: Any, *args: Any, **options: Any) -> None:
            try:
                bound = signature.bind(self, *args, **options)
            except TypeError as error:
                raise TypeError(f"{kind.__name__}: {error}; allowed are {', '.join(signature.parameters)}") from None
            bound.apply_defaults()
            bound.arguments.pop("self")
            own_init(self, **bound.arguments)

        init.__signature__ = signature  # type: ignore[attr-defined]
        init.__annotations__ = {name: types[name] for name in signature.parameters if name in types} | {"return": None}
        kind.__init__ = init  # type: ignore[misc]
        return documented(kind, shared or {})

    return decorate


def _described(kind: type) -> tuple[str, dict[str, str]]:
    """A docstring before its list of arguments, and the entries of that list by name."""
    text, _, args = inspect.cleandoc(kind.__doc__ or "").partition(_ARGS)
    starts = [match.start() for match in _ENTRY.finditer(args)]
    entries = [args[start:stop].rstrip() for start, stop in zip(starts, [*starts, len(args)][1:], strict=True)]
    return text, {entry.split(":", 1)[0].strip(): entry for entry in entries}
