"""Balanced batches: as many rows of every group in each batch, in stages of different batch sizes.

UltraFuser (https://arxiv.org/abs/2403.08281) draws n rows of text, code and maths into every batch, with another n in each
stage. Every group is a stream of its own: all of its rows in a random order, then all of them again in another, and so on.
With W ranks, n rows per rank and P global batches behind it, batch k takes the next n·W rows of each stream, of which rank r
takes every W-th from the r-th on: two processes with n are one with 2n. Where a batch begins in a stream is arithmetic, so a
run that was interrupted in any stage goes on with the very rows it had not seen.

An epoch is the whole plan: the optimizer steps of all stages together. Further epochs go on in the streams, with the plan's
sizes anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from fulgurite.data.sampling.windows import Batch, WindowSampler

__all__ = ["BalancedSampler"]


class BalancedSampler(WindowSampler):
    """Yields `Batch` objects with the same number of rows of each group.

    Args:
        tag: group of each row, (rows,) of 0 to G - 1; every group has a row.
        names: the groups' names, G of them.
        per_group: rows of each group per rank and batch, one number per stage.
        stage_steps: optimizer steps of each stage.
        targets: supervised targets of each row, (rows,).
        rank: this process.
        world_size: number of processes.
        accumulate: batches per optimizer step.
        seed: decides the order within each group.
        repeat: a group whose rows are used up begins anew, in another order; False: that is an error, now.

    Raises:
        ValueError: a group without a row, or, without repeat, with too few; stages that do not fit together.
    """

    def __init__(
        self,
        tag: Tensor,
        names: Sequence[str],
        per_group: Sequence[int],
        stage_steps: Sequence[int],
        targets: Sequence[int] | Tensor,
        *,
        rank: int = 0,
        world_size: int = 1,
        accumulate: int = 1,
        seed: int = 42,
        repeat: bool = True,
    ) -> None:
        if len(per_group) != len(stage_steps) or not per_group or min(*per_group, *stage_steps, 1) < 1:
            raise ValueError(
                f"BalancedSampler: per_group {list(per_group)} and stage_steps {list(stage_steps)}; one number of at least 1 "
                "is needed for each stage"
            )
        super().__init__(
            len(tag),
            per_group[0] * len(names),
            targets,
            rank=rank,
            world_size=world_size,
            accumulate=accumulate,
            seed=seed,
        )
        self.names, self.per_group, self.stage_steps = list(names), list(per_group), list(stage_steps)
        self.members = [(tag == index).nonzero().squeeze(1) for index in range(len(names))]
        sizes = {name: len(rows) for name, rows in zip(names, self.members, strict=True)}
        shown = ", ".join(f"{name} {count}" for name, count in sizes.items())
        empty = [name for name, count in sizes.items() if not count]
        if empty:
            raise ValueError(
                f"BalancedSampler: {', '.join(map(repr, empty))} has no row ({shown}), so that no batch could hold it; give "
                "it rows, or leave it out of the domains"
            )
        if not repeat:
            needed = self._start_of(len(self))
            short = [f"{name} {count}" for name, count in sizes.items() if count < needed]
            if short:
                raise ValueError(
                    f"BalancedSampler: the stages take {needed} rows of each group, and repeat is off; too few are there of "
                    f"{', '.join(short)}; give fewer steps or rows per batch, or let rows repeat"
                )
        self._orders: dict[tuple[int, int], Tensor] = {}

    def __len__(self) -> int:
        """Batches of all stages."""
        return sum(self.stage_steps) * self.accumulate

    def stream(self) -> dict[str, int | str]:
        """What must be the same for a position to mean the same rows."""
        return {
            "rows": self.rows,
            "rows per group and global batch": "/".join(str(n * self.num_replicas) for n in self.per_group),
            "optimizer steps of the stages": "/".join(map(str, self.stage_steps)),
            "batches per step": self.accumulate,
            "seed": self.seed,
        }

    def stage(self, batch: int) -> int:
        """The stage of a batch of the epoch."""
        end = 0
        for index, steps in enumerate(self.stage_steps):
            end += steps * self.accumulate
            if batch < end:
                return index
        return len(self.stage_steps) - 1

    def _start_of(self, batch: int) -> int:
        """Rows of each stream that the global batches before this one have taken."""
        taken = done = 0
        for size, steps in zip(self.per_group, self.stage_steps, strict=True):
            batches = min(steps * self.accumulate, batch - done)
            taken += batches * size * self.num_replicas
            done += batches
        return taken

    def __iter__(self) -> Iterator[Batch]:
        # As in WindowSampler: the epoch counts when the iterator is made.
        epoch, first = self._start if self._start is not None else (self.epoch, 0)
        if not self._held:
            self._start = None
        return self._planned(epoch, first)

    def _planned(self, epoch: int, first: int) -> Iterator[Batch]:
        batches = self.end
        before = epoch * self._start_of(batches)
        window, tokens = -1, 0
        for batch in range(first, batches):
            if batch // self.accumulate != window:
                window = batch // self.accumulate
                begin = window * self.accumulate
                rows = [self._global(before, b) for b in range(begin, min(begin + self.accumulate, batches))]
                assert self._targets is not None
                tokens = int(self._targets[torch.cat([torch.cat(groups) for groups in rows])].sum())
            groups = self._global(before, batch)
            mine = [index for rows_of in groups for index in rows_of[self.rank :: self.num_replicas].tolist()]
            yield Batch(tuple(mine), 0, tokens)

    def _global(self, before: int, batch: int) -> list[Tensor]:
        """The rows of each group in one global batch."""
        count = self.per_group[self.stage(batch)] * self.num_replicas
        start = before + self._start_of(batch)
        return [self._piece(group, start, count) for group in range(len(self.members))]

    def _piece(self, group: int, start: int, count: int) -> Tensor:
        members = self.members[group]
        pieces = []
        while count:
            turn, offset = divmod(start, len(members))
            taken = min(count, len(members) - offset)
            pieces.append(members[self._order(group, turn)[offset : offset + taken]])
            start, count = start + taken, count - taken
        return torch.cat(pieces)

    def _order(self, group: int, turn: int) -> Tensor:
        """The order of a group's rows the turn-th time that they are gone through."""
        if (group, turn) not in self._orders:
            digest = hashlib.sha256(f"{self.seed}:{self.names[group]}:{turn}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
            for old in [key for key in self._orders if key[0] == group and key[1] < turn - 1]:
                del self._orders[old]
            self._orders[group, turn] = torch.randperm(len(self.members[group]), generator=generator)
        return self._orders[group, turn]
