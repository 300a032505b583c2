"""How a fit went: a table of its validations and `learning_curve.png`, training loss and validation metrics over steps.

With `num_sanity_val_steps: -1` Lightning runs the whole validation before the first step; it then stands in the table as
step 0. Shorter sanity checks say nothing about the data and are left out.
"""

import math
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from fulgurite.callbacks.picture import panels, save
from fulgurite.console import say, shortest

__all__ = ["LearningCurve"]

_ROWS = 12
_PANELS = 4


class LearningCurve(Callback):
    """Remembers `train_loss` and every `val_` metric; draws and prints at the end of a fit.

    Args:
        folder: where the picture goes; None takes the trainer's default_root_dir
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self.train: list[tuple[int, float]] = []
        self.validations: list[tuple[int, dict[str, float]]] = []

    def state_dict(self) -> dict[str, Any]:
        """What was seen so far, so that a resumed run's table begins at step 0."""
        return {"train": [list(p) for p in self.train], "validations": [[s, dict(v)] for s, v in self.validations]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes it back.

        Args:
            state_dict: what state_dict gave
        """
        self.train = [(int(step), float(loss)) for step, loss in state_dict.get("train", [])]
        self.validations = [(int(step), dict(values)) for step, values in state_dict.get("validations", [])]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run forgets what it had seen beyond its checkpoint; a new one begins anew.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self.train = [point for point in self.train if point[0] <= trainer.global_step]
        self.validations = [point for point in self.validations if point[0] <= trainer.global_step]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the training loss at the logging interval.

        Args:
            trainer: the trainer
            pl_module: its module
            outputs: what the training step returned
            batch: the batch
            batch_idx: its position in the epoch
        """
        step = trainer.global_step
        seen = self.train and self.train[-1][0] == step
        if seen or step % max(1, trainer.log_every_n_steps) or not step:  # type: ignore[attr-defined]
            return
        loss = trainer.callback_metrics.get("train_loss")
        if loss is not None:
            self.train.append((step, float(loss)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the metrics of a validation; of a sanity check only if it saw everything.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf"):
            return
        values = {name: float(v) for name, v in trainer.callback_metrics.items() if name.startswith("val_")}
        if values and trainer.state.fn == "fit":
            step = trainer.global_step
            self.validations = [(s, v) for s, v in self.validations if s != step] + [(step, values)]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table and draws the picture, on the first process.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False) or len(self.validations) < 2:
            return
        say(self._table())
        path = Path(self.folder or trainer.default_root_dir) / "learning_curve.png"
        _draw(self.train, self.validations, path)
        say(f"picture: {shortest(path)}")

    def _table(self) -> Table:
        names = list(self.validations[-1][1])
        # Losses per group have a table of their own; the accuracy on pairs is the figure to watch.
        names = [n for n in names if "/" not in n or n.endswith("rewards/accuracies")][:5]
        table = Table(title="validations", title_justify="left", title_style="bold")
        table.add_column("step", justify="right")
        for name in names:
            table.add_column(name.removeprefix("val_"), justify="right")
        shown = self.validations
        if len(shown) > _ROWS:
            shown = [*shown[: _ROWS // 2], *shown[-_ROWS // 2 :]]
        for step, values in shown:
            table.add_row(str(step), *(f"{values[n]:.4f}" if n in values else "" for n in names))
        return table


def _draw(train: list[tuple[int, float]], validations: list[tuple[int, dict[str, float]]], path: Path) -> None:
    names = [n for n in validations[-1][1] if n != "val_loss" and "/" not in n][: _PANELS - 1]
    figure, row = panels(1 + len(names))
    if train:
        row[0].plot(*zip(*train, strict=True), color="0.7", linewidth=1, label="training")
    for axes, name in zip(row, ["val_loss", *names], strict=True):
        points = [(step, values[name]) for step, values in validations if math.isfinite(values.get(name, math.nan))]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label="validation")
        axes.set_title(name.removeprefix("val_").replace("_", " "))
    row[0].legend()
    save(figure, path)
