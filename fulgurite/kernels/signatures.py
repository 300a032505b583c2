"""Functions of one signature: it is written once, and what else takes it says so."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

__all__ = ["taking", "twin_of"]

P = ParamSpec("P")
Given = TypeVar("Given")
Result = TypeVar("Result")


def taking(arguments: Callable[P, Given]) -> Callable[[Callable[[Given], Result]], Callable[P, Result]]:
    """Lets a function of one object be called with the arguments that the object is made of.

    Args:
        arguments: makes the object. The function has its signature, for callers, `help()` and type checkers.
    """
    signature = inspect.signature(arguments)

    def decorate(function: Callable[[Given], Result]) -> Callable[P, Result]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> Result:
            return function(arguments(*args, **kwargs))

        result = inspect.signature(function).return_annotation
        call.__signature__ = signature.replace(return_annotation=result)  # type: ignore[attr-defined]
        return call

    return decorate


def twin_of(kernel: Callable[P, Result]) -> Callable[[Callable[..., Any]], Callable[P, Result]]:
    """Gives a twin the types of its kernel, whose names, kinds and defaults of arguments it must have.

    Args:
        kernel: the public function of :mod:`fulgurite.kernels`.

    Raises:
        TypeError: the two differ; raised where the twin is defined.
    """
    wanted = _bare(kernel)

    def decorate(twin: Callable[..., Any]) -> Callable[P, Result]:
        if _bare(twin) != wanted:
            raise TypeError(f"{twin.__name__}: the twin takes {_bare(twin)}, its kernel {wanted}; give it the kernel's")
        return twin

    return decorate


def _bare(function: Callable[..., Any]) -> inspect.Signature:
    """The signature without types."""
    empty = inspect.Parameter.empty
    return inspect.Signature([p.replace(annotation=empty) for p in inspect.signature(function).parameters.values()])
