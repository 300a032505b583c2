"""What a reward model's rewards look like: `reward_report.png` with their distribution, their reliability and their length.

Three panels of the last validation, or of the test: rewards of chosen and rejected answers; the share of pairs in the right order
against σ(|Δ|), which a calibrated model has on the diagonal; and reward against tokens of the answer, because a reward that only
measures length does so visibly.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from fulgurite.callbacks.picture import save
from fulgurite.console import say, shortest

__all__ = ["RewardReport"]

_POINTS = 2000


class RewardReport(Callback):
    """Draws what a module keeps as `reward_values`; does nothing where a module keeps none.

    Args:
        folder: where the picture goes; None takes the trainer's default_root_dir
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the last validation.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._draw(trainer, pl_module, "validation")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draws the test.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._draw(trainer, pl_module, "test")

    def _draw(self, trainer: Trainer, pl_module: LightningModule, what: str) -> None:
        values: Any = getattr(pl_module, "reward_values", None)
        if (
            not values
            or not len(values["chosen"])
            or not trainer.is_global_zero
            or getattr(trainer, "fast_dev_run", False)
        ):
            return
        path = Path(self.folder or trainer.default_root_dir) / "reward_report.png"
        _picture(values, path, what)
        say(f"picture: {shortest(path)}")


def _picture(values: Any, path: Path, what: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13.2, 3.3), layout="constrained", dpi=110)
    distribution, reliability, length = figure.subplots(1, 3)
    both = [values[name].tolist() for name in ("rejected", "chosen")]
    distribution.hist(both, bins=30, color=["tab:red", "tab:green"], label=["rejected", "chosen"], histtype="step")
    distribution.axvline(0.0, color="0.5", linewidth=0.8)
    distribution.set_xlabel("reward")
    distribution.set_title(f"rewards, {what}")
    distribution.legend()
    confidence, accuracy, pairs = (values[name].tolist() for name in ("confidence", "accuracy", "pairs"))
    reliability.plot([0.5, 1], [0.5, 1], color="0.7", linewidth=1)
    largest = max(pairs)
    reliability.scatter(confidence, accuracy, s=[12 + 90 * count / largest for count in pairs], color="tab:blue")
    reliability.set_xlabel("σ(|Δ|), area: pairs")
    reliability.set_ylim(-0.02, 1.02)
    reliability.set_title("share in the right order")
    length.scatter(
        values["lengths"][:_POINTS].tolist(), values["rewards"][:_POINTS].tolist(), s=5, alpha=0.5, color="tab:blue"
    )
    length.set_xlabel("tokens of the answer")
    length.set_title("reward against length")
    for axes in (distribution, reliability, length):
        axes.grid(alpha=0.3)
    save(figure, path)
