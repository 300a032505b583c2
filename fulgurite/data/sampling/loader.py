"""A DataLoader whose position can be saved in the middle of an epoch and taken up again.

What counts is what the training loop has *consumed*: workers fetch ahead, so the sampler's own position is too far.
The loader therefore asks its owner for the position, in batches since the epoch's beginning, both when its state is
saved and when an iteration begins.
"""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fulgurite.data.sampling.windows import WindowSampler

__all__ = ["ResumableLoader"]

_log = logging.getLogger(__name__)


class ResumableLoader(DataLoader):  # type: ignore[type-arg]
    """A loader over a `WindowSampler`.

    Args:
        dataset: indexed by the sampler's `Batch` objects.
        sampler: decides rows and order.
        collate_fn: makes the tensors of a batch.
        position: the (epoch, batches consumed in it) that the next iteration is to start from.
        num_workers: worker processes.
        persistent_workers: keep them over epochs; ignored without workers.
        pin_memory: copy batches into page-locked memory.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        sampler: WindowSampler,
        collate_fn: Callable[[Any], Any],
        position: Callable[[], tuple[int, int]],
        num_workers: int = 0,
        persistent_workers: bool = False,
        pin_memory: bool = False,
    ) -> None:
        super().__init__(
            dataset,
            batch_size=None,
            sampler=sampler,
            collate_fn=collate_fn,
            num_workers=num_workers,
            persistent_workers=persistent_workers and num_workers > 0,
            pin_memory=pin_memory,
            # Without a generator of its own, making an iterator would draw from the global random state, and a
            # resumed run, which makes one iterator more, would see other dropout masks.
            generator=torch.Generator().manual_seed(sampler.seed),
        )
        self.position = position

    def _window_sampler(self) -> WindowSampler:
        assert isinstance(self.sampler, WindowSampler)
        return self.sampler

    def __iter__(self) -> Any:
        sampler = self._window_sampler()
        if not sampler.skips:
            sampler.skip(*self._normalised(*self.position()))
        with sampler.held():
            return super().__iter__()

    def _normalised(self, epoch: int, batches: int) -> tuple[int, int]:
        return (epoch, batches) if batches < self._window_sampler().end else (epoch + 1, 0)

    def state_dict(self) -> dict[str, Any]:
        """Where the training loop stands, and what must be the same for that to mean anything."""
        epoch, batches = self._normalised(*self.position())
        sampler = self._window_sampler()
        return {"epoch": epoch, "batches": batches, "accumulate": sampler.accumulate, "stream": sampler.stream()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Makes the next iteration start where `state` was saved."""
        was, now = state["stream"], self._window_sampler().stream()
        changed = [f"{key} was {was.get(key)}, is {now[key]}" for key in now if was.get(key) != now[key]]
        if changed and state["batches"]:
            raise ValueError(
                f"ResumableLoader: the checkpoint was saved in the middle of an epoch and {'; '.join(changed)}; an "
                "interrupted epoch goes on with the same rows only if these agree; resume with the old values, or "
                "from a checkpoint of an epoch's end"
            )
        sampler = self._window_sampler()
        if state["batches"] % sampler.accumulate:
            _log.warning(
                "the checkpoint was saved in the middle of an optimizer step: the gradients of %d batches are lost, "
                "and the first step sees only the other batches of its %d",
                state["batches"] % sampler.accumulate,
                sampler.accumulate,
            )
        sampler.skip(state["epoch"], state["batches"])
