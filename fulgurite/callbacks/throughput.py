"""Throughput of a training run: tokens, supervised tokens and samples per second, peak memory, model FLOPs
utilisation.

Counts stay on the device and are read once per logging interval, so that the training loop gets no synchronisation
of its own. Time spent in validation is not counted. Rates are those of this process times the number of processes.
"""

import sys
import time
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from fulgurite.console import say

__all__ = ["Throughput"]

_NAMES = ("tokens", "supervised_tokens", "samples")


class Throughput(Callback):
    """Logs rates every log_every_n_steps and prints them at the end of a fit.

    Args:
        flops_per_token: floating-point operations of forward and backward per token; with peak_flops it gives the MFU
        peak_flops: floating-point operations per second that one device is able to do in the precision used
    """

    def __init__(self, flops_per_token: float | None = None, peak_flops: float | None = None) -> None:
        for name, value in (("flops_per_token", flops_per_token), ("peak_flops", peak_flops)):
            if value is not None and value <= 0:
                raise ValueError(f"Throughput: {name} is {value}; allowed are positive numbers, and None for no MFU")
        self.flops_per_token = flops_per_token
        self.peak_flops = peak_flops
        self._seconds = 0.0
        self._totals = dict.fromkeys(_NAMES, 0)
        self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._seconds, self._totals = 0.0, dict.fromkeys(_NAMES, 0)
        self._first_step = self._last_step = trainer.global_step
        self._window = torch.zeros(len(_NAMES), dtype=torch.int64, device=pl_module.device)
        self._paused = 0.0
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock for a validation inside a fit.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._pause_began = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lets the clock run on.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if hasattr(self, "_paused"):
            self._paused += time.perf_counter() - self._pause_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the batch, and logs where a logging interval ends.

        Args:
            trainer: the trainer
            pl_module: its module
            outputs: what the training step returned
            batch: the batch
            batch_idx: its position in the epoch
        """
        self._window += _count(batch, self._window.device)
        step = trainer.global_step
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step != self._last_step and step % every == 0:
            rates = self._read()
            world = trainer.world_size
            values = {f"{name}_per_second": rate * world for name, rate in rates.items()}
            memory = peak_memory(pl_module.device)
            if memory is not None:
                values["peak_memory_gib"] = memory / 2**30
            if (mfu := self._mfu(rates["tokens"])) is not None:
                values["mfu"] = mfu
            pl_module.log_dict(values, rank_zero_only=True)
        self._last_step = step

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts what came after the last logging interval.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._read()
        self._steps = trainer.global_step - self._first_step

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the summary.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not trainer.is_global_zero or not self._steps or not self._seconds:
            return
        table = Table(title="throughput", title_justify="left", title_style="bold", show_header=False)
        table.add_column("")
        table.add_column("", justify="right")
        for name, value in self.summary(trainer.world_size, pl_module.device).items():
            table.add_row(name, value)
        say(table)

    def summary(self, world_size: int, device: torch.device) -> dict[str, str]:
        """The figures of the run in words.

        Args:
            world_size: number of processes
            device: device of this process
        """
        rates = {name: total / self._seconds for name, total in self._totals.items()}
        lines = {
            "optimizer steps": f"{self._steps}",
            "time in training": f"{self._seconds:.1f} s ({1000 * self._seconds / max(self._steps, 1):.1f} ms per step)",
        }
        for name in _NAMES:
            if self._totals[name]:
                lines[name.replace("_", " ") + " per second"] = f"{rates[name] * world_size:,.0f}"
        memory = peak_memory(device)
        if memory is not None:
            lines["peak memory" + ("" if device.type == "cuda" else " of the process")] = f"{memory / 2**30:.2f} GiB"
        if (mfu := self._mfu(rates["tokens"])) is not None:
            lines["model FLOPs utilisation"] = f"{100 * mfu:.1f} %"
        return lines

    def _read(self) -> dict[str, float]:
        """Rates since the last reading; the only place where the device is waited for."""
        counts = dict(zip(_NAMES, self._window.tolist(), strict=True))
        now = time.perf_counter()
        seconds = max(now - self._since - self._paused, 1e-9)
        self._since, self._paused = now, 0.0
        self._window.zero_()
        self._seconds += seconds
        for name, count in counts.items():
            self._totals[name] += count
        return {name: count / seconds for name, count in counts.items()}

    def _mfu(self, tokens_per_second: float) -> float | None:
        if self.flops_per_token is None or self.peak_flops is None:
            return None
        return tokens_per_second * self.flops_per_token / self.peak_flops


def _count(batch: Any, device: torch.device) -> torch.Tensor:
    """Tokens, supervised tokens and samples of one batch, (3,) int64, without waiting for the device."""
    counts = torch.zeros(len(_NAMES), dtype=torch.int64, device=device)
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), torch.Tensor):
        return counts
    ids, mask, labels = batch["input_ids"], batch.get("attention_mask"), batch.get("labels")
    counts[0] = ids.numel() if mask is None else mask.sum()
    packed, trees = batch.get("cu_seq_lens"), batch.get("lengths")
    counts[2] = ids.shape[0] if packed is None else packed.numel() - 1
    if trees is not None:  # completions of a preference batch
        counts[1], counts[2] = batch["targets"].numel(), trees.numel()
    elif isinstance(labels, torch.Tensor):
        # Of a causal language model's labels (rows, length) the first has no position before it that predicts it.
        labels = labels[:, 1:] if labels.dim() == 2 else labels
        counts[1] = (~labels.isnan()).sum() if labels.is_floating_point() else (labels != -100).sum()
    return counts


def peak_memory(device: torch.device) -> int | None:
    """Peak bytes on the GPU since the fit began; elsewhere the peak resident size of the process; None if unknown.

    Args:
        device: device of this process
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
