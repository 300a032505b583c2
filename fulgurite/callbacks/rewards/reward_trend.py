"""Where the rewards went: `rewards.png` with the chosen and the rejected answer's reward over steps, and a table.

A margin alone hides that under DPO the chosen answer's own reward may fall (arXiv 2404.02078, section 4.1, saw it fall
under DPO and rise under KTO and NCA), so the two are drawn apart, in training and in validation.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from rich.table import Table

from fulgurite.callbacks.picture import panels, save
from fulgurite.callbacks.rewards.seen import Seen
from fulgurite.console import say, shortest

__all__ = ["RewardTrend"]

_LINES = {
    "rewards/chosen": "tab:green",
    "rewards/rejected": "tab:red",
    "rewards/desirable": "tab:olive",
    "rewards/undesirable": "tab:orange",
}
_ACCURACY = "rewards/accuracies"


class RewardTrend(Seen):
    """Remembers logged rewards; does nothing where a module logs none.

    Args:
        folder: where the picture goes; None takes the trainer's default_root_dir
    """

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes the training batch's rewards at the logging interval.

        Args:
            trainer: the trainer
            pl_module: its module
            outputs: what the training step returned
            batch: the batch
            batch_idx: its position in the epoch
        """
        if trainer.global_step % max(1, trainer.log_every_n_steps) == 0:  # type: ignore[attr-defined]
            self._note(trainer, "train_")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the validation's rewards.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        whole = not trainer.sanity_checking or trainer.num_sanity_val_steps == float("inf")
        if whole and trainer.state.fn == "fit":
            self._note(trainer, "val_")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table and draws the picture, on the first process.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not self.seen or not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        table = Table(title="rewards", title_justify="left", title_style="bold")
        table.add_column("")
        for column in ("first", "lowest", "highest", "last"):
            table.add_column(column, justify="right")
        for name in sorted(self.seen):
            values = [value for _, value in self.seen[name]]
            table.add_row(name, *(f"{v:+.4f}" for v in (values[0], min(values), max(values), values[-1])))
        say(table)
        path = Path(self.folder or trainer.default_root_dir) / "rewards.png"
        _draw(self.seen, path)
        say(f"picture: {shortest(path)}")

    def _note(self, trainer: Trainer, prefix: str) -> None:
        for name in (*_LINES, _ACCURACY):
            value = trainer.callback_metrics.get(prefix + name)
            if value is not None:
                points = self.seen.setdefault(prefix + name, [])
                points[:] = [p for p in points if p[0] != trainer.global_step] + [(trainer.global_step, float(value))]


def _draw(seen: dict[str, list[tuple[int, float]]], path: Path) -> None:
    figure, (rewards, accuracy) = panels(2)
    for name, colour in _LINES.items():
        if points := seen.get("train_" + name):
            rewards.plot(*zip(*points, strict=True), color=colour, alpha=0.35, linewidth=1)
        if points := seen.get("val_" + name):
            rewards.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, label=name.split("/")[1])
    rewards.axhline(0.0, color="0.5", linewidth=0.8)
    rewards.set_title("reward (pale: training batches)")
    if points := seen.get("train_" + _ACCURACY):
        accuracy.plot(*zip(*points, strict=True), color="tab:blue", alpha=0.35)
    if points := seen.get("val_" + _ACCURACY):
        accuracy.plot(*zip(*points, strict=True), color="tab:blue", marker="o", markersize=3)
    accuracy.set_title("pair accuracy")
    accuracy.set_ylim(0, 1)
    if rewards.get_legend_handles_labels()[0]:
        rewards.legend()
    save(figure, path)
