"""How long one process of a run waits for another that was stopped, hangs or lost its connection."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy

__all__ = ["limit_waiting"]


def limit_waiting(strategy: Any, seconds: int | None) -> None:
    """Gives a strategy of several processes its time-out, unless it was made with one of its own.

    Args:
        strategy: the trainer's.
        seconds: at least 1; None leaves Lightning's 30 minutes.

    Raises:
        ValueError: fewer seconds than 1.
    """
    if seconds is None:
        return
    if seconds < 1:
        raise ValueError(f"--process_timeout {seconds} was given; allowed are whole seconds from 1 on")
    if isinstance(strategy, DDPStrategy | ModelParallelStrategy) and strategy._timeout == default_pg_timeout:
        strategy._timeout = timedelta(seconds=seconds)
