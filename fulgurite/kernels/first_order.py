"""Backward passes that have no derivative of their own, and raise an error whenever a second derivative is asked for.

torch's ``once_differentiable`` raises this error only if the *incoming* gradient depends on a tensor that is differentiated. After
a plain sum or mean the incoming gradient is a constant: with ``create_graph=True`` torch then returns gradients without a graph,
and a penalty on these gradients is dropped silently. Here every returned gradient is tied in the graph to the tensors that it was
computed from, so that its own backward always raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["first_order_only"]


class _Dead(torch.autograd.Function):
    """(message, number, ``number`` tensors, the tensors they were computed from) -> the first ones; its backward raises."""

    @staticmethod
    def forward(ctx: Any, message: str, number: int, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.message = message
        return tuple(tensor.view_as(tensor) for tensor in tensors[:number])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(ctx.message)


def first_order_only(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a ``torch.autograd.Function``'s backward: it runs without grad mode, and differentiating its results raises.

    A gradient that depends on no tensor saved by the forward is linear in the incoming gradient and has no second derivative, so
    that there is nothing to refuse. A Function with ``at_once = True`` computed its gradients in the forward already; it raises as
    soon as a graph is asked for.

    Args:
        backward: (ctx, *gradients) -> gradients.
    """

    @functools.wraps(backward)
    def wrapped(ctx: Any, *gradients: Any) -> Any:
        if torch.compiler.is_compiling():  # it refuses create_graph by itself
            return backward(ctx, *gradients)
        if not torch.is_grad_enabled():  # the usual case: no create_graph
            return backward(ctx, *gradients)
        name = type(ctx).__name__.removesuffix("Backward").lstrip("_")
        message = (
            f"{name}: this kernel has no second derivative. Compute the term with plain PyTorch operations, or drop "
            "create_graph=True."
        )
        if getattr(getattr(ctx, "_forward_cls", None), "at_once", False):
            raise RuntimeError(message)
        with torch.no_grad():
            found = backward(ctx, *gradients)
        sources = [t for t in (*gradients, *ctx.saved_tensors) if t is not None and t.requires_grad]
        outputs = list(found) if isinstance(found, tuple) else [found]
        there = [place for place, output in enumerate(outputs) if output is not None]
        if sources and there:
            tied = _Dead.apply(message, len(there), *(outputs[place] for place in there), *sources)
            for place, output in zip(there, tied, strict=True):
                outputs[place] = output
        return tuple(outputs) if isinstance(found, tuple) else outputs[0]

    return wrapped
