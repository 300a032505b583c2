"""Evaluation mode for a while: afterwards every module is in its own mode again, not all of them in the root's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluation_mode"]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the block every module is in evaluation mode; afterwards each one has the mode that it had before.

    ``model.train(was_training)`` would switch on submodules that somebody keeps in evaluation mode, such as frozen specialists.

    Args:
        model: whose modules are switched.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
