"""What stands in the judge for things of the candidate's process: its objects and its exceptions.

A :class:`Remote` forwards calls, attributes, items, iteration, length, truth and text. It never forwards a comparison:
`==` would be answered by code of the candidate, and a class whose ``__eq__`` returns True would pass every test.
Comparing raises :class:`Unsupported`, which also marks the run, so that a test that swallows the exception does not
pass either.
"""

import builtins
from collections.abc import Callable
from typing import Any

__all__ = ["Remote", "Unsupported", "remote_error"]

# Raised inside a loop or a generator of the test these would end it early, as if there were nothing left to check.
_ENDINGS = (StopIteration, StopAsyncIteration, GeneratorExit)


class Unsupported(Exception):
    """The test needs something of the candidate that cannot travel between the two processes."""


class Remote:
    """An object in the partner's process."""

    __slots__ = ("_ask", "_number", "_refuse", "_type_name")

    def __init__(
        self, ask: Callable[..., Any], refuse: Callable[[str], Exception], number: int, type_name: str
    ) -> None:
        object.__setattr__(self, "_ask", ask)
        object.__setattr__(self, "_refuse", refuse)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ask("call", self, "", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in ("__name__", "__doc__"):
            raise AttributeError(name)
        return self._ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._ask("set", self, name, (value,))

    def __getitem__(self, key: Any) -> Any:
        return self._ask("item", self, "", (key,))

    def __setitem__(self, key: Any, value: Any) -> None:
        self._ask("set item", self, "", (key, value))

    def __iter__(self) -> Any:
        return self._ask("iter", self)

    def __next__(self) -> Any:
        done, value = self._ask("next", self)
        if done:
            raise StopIteration
        return value

    def __len__(self) -> int:
        return self._ask("len", self)

    def __bool__(self) -> bool:
        return self._ask("bool", self)

    def __str__(self) -> str:
        return self._ask("str", self)

    def __repr__(self) -> str:
        return f"<{self._type_name} of the candidate>"

    def __eq__(self, other: object) -> Any:
        if other is self:
            return True
        if other is None:
            return False
        raise self._refuse(f"comparing a {self._type_name} of the candidate: only plain values can be compared")

    def __ne__(self, other: object) -> Any:
        return not self == other

    def _refused(self, *others: Any) -> Any:
        raise self._refuse(f"this operation on a {self._type_name} of the candidate: only plain values support it")

    __hash__ = _refused
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refused
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refused
    __int__ = __float__ = __index__ = __abs__ = __neg__ = __round__ = _refused


def remote_error(told: Any) -> BaseException:
    """An exception as the candidate reported it: of the same name, below the same class of ``builtins``, with the same
    text.

    Args:
        told: (type name, names of its bases, most special first, arguments or None, text, line, source line).
    """
    name, bases, args, text, line, source = told
    name = name[:100] if type(name) is str and name.isidentifier() else "Exception"
    classes = [found for base in [name, *bases] if isinstance(found := getattr(builtins, str(base), None), type)]
    base_class = next((found for found in classes if issubclass(found, BaseException)), Exception)
    if issubclass(base_class, _ENDINGS):
        base_class = RuntimeError
    error: BaseException | None = None
    if base_class.__name__ == name and isinstance(args, tuple):
        try:
            error = base_class(*args)
        except Exception:
            error = None
    if error is None:
        body = {"__str__": lambda self: str(text), "__module__": "candidate", "__init__": lambda self: None}
        try:
            error = type(name, (base_class,), body)()
        except TypeError:  # a class that insists on arguments, such as UnicodeDecodeError and ExceptionGroup
            error = type(name, (Exception,), body)()
    error.__dict__["_of_the_candidate"] = (name, str(text), line, source)
    return error
