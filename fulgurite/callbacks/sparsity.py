"""How many ranks the proximal step left in each gated adapter: a table, a picture and a CSV file at the end of a fit.

A gate of exactly zero switches one rank of one module off. While training, the number of gates away from zero is
logged; at the end come the ranks left per layer and kind of module, in `sparsity.csv`, and `sparsity.png` with
their history. A module that trains in stages of rising thresholds offers `stage_reports`, dicts with keys stage,
threshold, nonzero, parameters_kept, memorization and generalization; they become a table and a third panel
(Algorithm 1 of SoRA, EMNLP 2023, compares these two).
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from fulgurite.adapters import Adapter, RankRow, find_adapters
from fulgurite.callbacks.sparsity_layout import Grid, arrange
from fulgurite.console import say, shortest
from fulgurite.whole_files import whole_file

__all__ = ["SparsityReport"]


class SparsityReport(Callback):
    """Reports how many ranks are left, for every adapter with gates; does nothing where there is none.

    Args:
        every_n_steps: optimizer steps between two counts; None takes the trainer's log_every_n_steps
        folder: where the files go; None takes the trainer's default_root_dir
    """

    def __init__(self, every_n_steps: int | None = None, folder: str | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"SparsityReport: every_n_steps is {every_n_steps}; at least 1 is allowed")
        self.every_n_steps = every_n_steps
        self.folder = folder
        self.history: list[tuple[int, int]] = []
        self._last_step = -1

    def state_dict(self) -> dict[str, Any]:
        """The counts so far, so that a resumed run's picture begins at step 0."""
        return {"history": [list(point) for point in self.history]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes the counts back.

        Args:
            state_dict: what state_dict gave
        """
        self.history = [(int(step), int(count)) for step, count in state_dict.get("history", [])]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts before the first step; a resumed run forgets what it had counted beyond its checkpoint.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self.history = [point for point in self.history if point[0] <= trainer.global_step]
        self._last_step = trainer.global_step
        self._note(trainer.global_step, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts and logs every few optimizer steps."""
        step = trainer.global_step
        every = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
        if not every or step == self._last_step or step % every:
            return
        self._last_step = step
        count = self._note(step, pl_module)
        if count is not None:
            pl_module.log("gates_nonzero", float(count), rank_zero_only=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts the final state.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._note(trainer.global_step, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the tables and writes the files.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        adapters = [adapter for adapter in find_adapters(pl_module) if _gates(adapter)]
        if not adapters or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        folder = Path(self.folder or trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        stages = list(getattr(pl_module, "stage_reports", None) or [])
        for adapter in adapters:
            rows = adapter.rank_table()
            suffix = "" if len(adapters) == 1 else f"-{adapter.name}"
            say(_rank_grid(arrange(rows), adapter.name), _totals(rows))
            _write_csv(rows, folder / f"sparsity{suffix}.csv")
            self._draw(rows, stages, folder / f"sparsity{suffix}.png")
        if stages:
            say(_stage_table(stages))
        say(f"sparsity picture: {shortest(folder / 'sparsity.png')}" if len(adapters) == 1 else f"pictures: {folder}")

    def _note(self, step: int, pl_module: LightningModule) -> int | None:
        """Counts the gates away from zero, in one synchronisation per adapter; None where there are no gates."""
        gated = [adapter for adapter in find_adapters(pl_module) if _gates(adapter)]
        if not gated:
            return None
        count = sum(row.nonzero for adapter in gated for row in adapter.rank_table())
        if not self.history or self.history[-1][0] < step:
            self.history.append((step, count))
        else:
            self.history[-1] = (step, count)
        return count

    def _draw(self, rows: Sequence[RankRow], stages: Sequence[Mapping[str, Any]], file: Path) -> None:
        from fulgurite.callbacks.sparsity_picture import draw

        with whole_file(file) as scratch:
            draw(arrange(rows), self.history, sum(row.rank for row in rows), stages, scratch)


def _gates(adapter: Adapter) -> list[torch.nn.Parameter]:
    return list(getattr(adapter, "gates", None) or [])


def _rank_grid(grid: Grid, name: str) -> Table:
    title = "ranks left (gates away from zero)" + ("" if name == "default" else f" of adapter {name}")
    table = Table(title=title, title_justify="left", title_style="bold", show_footer=True)
    table.add_column("layer", footer="all")
    left_of_kind = [sum(row[i] or 0 for row in grid.left) for i in range(len(grid.kinds))]
    for kind, left in zip(grid.kinds, left_of_kind, strict=True):
        table.add_column(kind, justify="right", footer=str(left))
    table.add_column("all", justify="right", footer=str(sum(left_of_kind)))
    for layer, row in zip(grid.layers, grid.left, strict=True):
        cells = ["" if value is None else f"[dim]{value}[/dim]" if value == 0 else str(value) for value in row]
        table.add_row(layer, *cells, str(sum(value or 0 for value in row)))
    return table


def _totals(rows: Sequence[RankRow]) -> str:
    ranks, nonzero = sum(row.rank for row in rows), sum(row.nonzero for row in rows)
    parameters, kept = sum(row.parameters for row in rows), sum(row.parameters_kept for row in rows)
    empty = sum(row.nonzero == 0 for row in rows)
    return (
        f"{nonzero} of {ranks} ranks left ({100 * nonzero / ranks:.1f} %), {kept:,} of {parameters:,} adapter "
        f"parameters kept ({100 * kept / parameters:.1f} %), {empty} of {len(rows)} modules without any"
    )


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title="stages of the sparsifying schedule", title_justify="left", title_style="bold")
    for heading in ("stage", "threshold", "non-zero gates", "parameters kept", "memorization %", "generalization %"):
        table.add_column(heading, justify="right")
    for report in stages:
        table.add_row(
            str(report["stage"]),
            f"{report['threshold']:.3g}",
            f"{report['nonzero']:,}",
            f"{report['parameters_kept']:,}",
            *(_percent(report.get(key)) for key in ("memorization", "generalization")),
        )
    return table


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _write_csv(rows: Sequence[RankRow], file: Path) -> None:
    with whole_file(file) as scratch, open(scratch, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(RankRow._fields)
        writer.writerows(rows)
