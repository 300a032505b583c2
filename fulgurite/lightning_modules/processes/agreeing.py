"""What the processes of a run have to agree on: objects, sums, errors and gradients. With one process nothing is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

__all__ = ["average_gradients", "gathered", "of_all", "place", "summed"]

T = TypeVar("T")


def place() -> tuple[int, int]:
    """Rank of this process, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def gathered(mine: T) -> list[T]:
    """What every process has, in the order of their ranks.

    Args:
        mine: this process's, which is pickled for the others.
    """
    _, number = place()
    if number == 1:
        return [mine]
    found: list[Any] = [None] * number
    torch.distributed.all_gather_object(found, mine)
    return found


def summed(values: Sequence[float], device: torch.device) -> list[float]:
    """Each value's sum over all processes, in float64.

    Args:
        values: as many on every process.
        device: where the processes talk to each other; a GPU under nccl.
    """
    if place()[1] == 1:
        return [float(value) for value in values]
    total = torch.tensor([float(value) for value in values], dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total)
    found: list[float] = total.tolist()
    return found


def of_all(owner: str, work: Callable[[], T]) -> list[T]:
    """What a piece of work gives on every process; where one of them fails all of them stop, instead of waiting for it.

    Args:
        owner: class name of the module, for the message.
        work: this process's share, in which processes do not wait for each other.

    Raises:
        RuntimeError: the work of another process failed; on the process itself its own error is raised.
    """
    if place()[1] == 1:
        return [work()]
    found: T | None = None
    error: Exception | None = None
    try:
        found = work()
    except Exception as caught:
        error = caught
    told = gathered((found, None if error is None else f"{type(error).__name__}: {error}"))
    if error is not None:
        raise error
    for rank, (_, said) in enumerate(told):
        if said is not None:
            raise RuntimeError(f"{owner}: process {rank} of this run failed ({said}); all processes stop")
    return [theirs for theirs, _ in told]  # type: ignore[misc]


def average_gradients(params: Sequence[nn.Parameter]) -> None:
    """Averages gradients over all processes, in buckets of one dtype; a process without a gradient counts as zero.

    Args:
        params: in the same order everywhere.
    """
    for p in params:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    by_kind: dict[Any, list[torch.Tensor]] = {}
    for p in params:
        assert p.grad is not None
        by_kind.setdefault((p.device, p.dtype), []).append(p.grad)
    for grads in by_kind.values():
        for bucket in _buckets(grads):
            flat = torch.cat([grad.flatten() for grad in bucket])
            torch.distributed.all_reduce(flat)
            flat /= torch.distributed.get_world_size()
            for grad, piece in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                grad.copy_(piece.view_as(grad))


def _buckets(grads: Sequence[torch.Tensor], numbers: int = 1 << 23) -> list[list[torch.Tensor]]:
    found: list[list[torch.Tensor]] = [[]]
    for grad in grads:
        if found[-1] and sum(g.numel() for g in found[-1]) + grad.numel() > numbers:
            found.append([])
        found[-1].append(grad)
    return found
