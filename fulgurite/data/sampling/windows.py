"""Which rows make up which batch: one order for every number of processes, and the token count of each window.

One optimizer step sees a *window* of `accumulate` batches on each of W ranks. The global batch k is rows
[k·B·W, (k+1)·B·W) of the epoch's order, of which rank r takes every W-th row from the r-th on, so that two processes
with batch size B train on the same rows as one with 2B. The last global batch of an epoch may be incomplete; a rank
left without a row gets a copy of a row that counts for nothing (label -100 or NaN), because every rank needs the same
number of batches. The order depends on the seed and the epoch only.

`tokens_in_window`, the number of supervised targets of the whole window, travels with each batch: a mean over tokens
cannot be rebuilt from the means of its batches.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

__all__ = ["Batch", "WindowSampler"]


@dataclass(frozen=True)
class Batch:
    """One rank's share of one global batch.

    Args:
        indices: rows of the data set.
        padding: how many of them, counted from the end, only fill up the batch.
        tokens_in_window: supervised targets of the optimizer step that this batch belongs to; None in evaluation.
    """

    indices: tuple[int, ...]
    padding: int = 0
    tokens_in_window: int | None = None


class WindowSampler(DistributedSampler):  # type: ignore[type-arg]
    """Yields `Batch` objects; goes into a DataLoader as `sampler` with `batch_size=None`.

    It is a DistributedSampler so that Lightning, which replaces other samplers under DDP, leaves it alone.

    Args:
        rows: number of rows.
        batch_size: rows per rank and batch.
        targets: supervised targets of each row, (rows,); None in evaluation.
        rank: this process.
        world_size: number of processes.
        accumulate: batches per optimizer step.
        seed: with the epoch, decides the order.
        shuffle: False keeps the order of the data set.
        limit: batches per epoch at most; the last window ends there.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        targets: Sequence[int] | Tensor | None = None,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        seed: int = 42,
        shuffle: bool = True,
        limit: int | None = None,
    ) -> None:
        if rows < 1:
            raise ValueError(f"WindowSampler: {rows} rows; at least one is needed; check that the split has rows")
        for name, value in (("batch_size", batch_size), ("accumulate", accumulate), ("world_size", world_size)):
            if value < 1:
                raise ValueError(f"WindowSampler: {name} is {value}; it must be at least 1")
        super().__init__(range(rows), num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)  # type: ignore[arg-type]
        self.rows = rows
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.limit = limit
        self._targets = None if targets is None else torch.as_tensor(targets, dtype=torch.int64)
        if self._targets is not None and self._targets.shape != (rows,):
            raise ValueError(f"WindowSampler: targets of shape {tuple(self._targets.shape)}; ({rows},) is needed")
        self._start: tuple[int, int] | None = None
        self._held = False

    def __len__(self) -> int:
        """Batches of a whole epoch, wherever the next iteration starts and whatever `limit` is.

        Lightning takes `limit_train_batches` as a share of this length: a length that is already limited would be limited twice.
        """
        return -(-self.rows // (self.batch_size * self.num_replicas))

    @property
    def end(self) -> int:
        """Batches that an epoch really has: `limit` or the whole epoch, whichever is shorter."""
        return len(self) if self.limit is None else min(self.limit, len(self))

    def skip(self, epoch: int, batches: int) -> None:
        """Makes the next iteration start in the middle of an epoch; the iterations after it start at the beginning of theirs.

        Args:
            epoch: the epoch, from 0.
            batches: how many of its batches are left out.
        """
        if epoch < 0 or not 0 <= batches <= self.end:
            raise ValueError(
                f"WindowSampler: epoch {epoch}, batch {batches} was given; an epoch here has {self.end} batches; "
                "resume with the batch size, processes and rows of the interrupted run"
            )
        self._start = (epoch, batches)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Inside this context every iterator that is made obeys the same `skip`.

        A DataLoader with workers makes two iterators and drops one of them; without this the dropped one would use the skip up.
        """
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._start = None

    @property
    def skips(self) -> bool:
        """Whether `skip` was called since the last iteration began."""
        return self._start is not None

    def stream(self) -> dict[str, int | str]:
        """What must not change between a run and its resumption, so that a position means the same rows in both."""
        return {"rows": self.rows, "rows per global batch": self.batch_size * self.num_replicas, "seed": self.seed}

    def order(self, epoch: int) -> Tensor:
        """The rows in the order of an epoch, (rows,) int64.

        Args:
            epoch: the epoch, from 0.
        """
        if not self.shuffle:
            return torch.arange(self.rows, device="cpu")
        # Hashing keeps (seed, epoch + 1) and (seed + 1, epoch) apart, which a sum of the two would not.
        digest = hashlib.sha256(f"{self.seed}:{epoch}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
        return torch.randperm(self.rows, generator=generator, device="cpu")

    def __iter__(self) -> Iterator[Batch]:
        # Not a generator function: the epoch counts when the iterator is made, and Lightning sets the epoch after that.
        epoch, first = self._start if self._start is not None else (self.epoch, 0)
        if not self._held:
            self._start = None
        return self._batches(self.order(epoch), first)

    def _batches(self, order: Tensor, first: int) -> Iterator[Batch]:
        stride = self.batch_size * self.num_replicas
        counts = None if self._targets is None else self._targets[order]
        batches = self.end
        for batch in range(first, batches):
            window = batch - batch % self.accumulate
            end = min(window + self.accumulate, batches)
            tokens = None if counts is None else int(counts[window * stride : end * stride].sum())
            share = order[batch * stride : (batch + 1) * stride][self.rank :: self.num_replicas].tolist()
            if share:
                yield Batch(tuple(share), 0, tokens)
            else:
                yield Batch((int(order[batch * stride]),), 1, tokens)
