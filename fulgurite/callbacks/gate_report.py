"""Which specialist a gate listens to, by domain: a table and `gate_weights.png` at the end of a fit or a test.

UltraFuser (https://arxiv.org/abs/2403.08281) reports on text .45/.29/.26, on code .23/.59/.18 and on maths .18/.39/.43 of
its text, code and maths specialists.
"""

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from fulgurite.callbacks.gate_picture import draw_gate_weights
from fulgurite.console import say, shortest

__all__ = ["GateReport"]


class GateReport(Callback):
    """Reads the gate weights that a module logged as `val_gate/<domain>/<specialist>`; does nothing where there are none.

    Args:
        folder: where the picture goes; None takes the trainer's default_root_dir
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the last validation's weights.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not getattr(trainer, "fast_dev_run", False):
            self._report(trainer, "val_gate/")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the test's weights.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._report(trainer, "test_gate/")

    def _report(self, trainer: Trainer, prefix: str) -> None:
        found: dict[str, dict[str, float]] = {}
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix) and value == value:
                domain, _, specialist = name.removeprefix(prefix).partition("/")
                found.setdefault(domain, {})[specialist] = float(value)
        if not found or not trainer.is_global_zero:
            return
        names = list(next(iter(found.values())))
        table = Table(title="mean gate weights", title_justify="left", title_style="bold")
        table.add_column("rows of")
        for name in names:
            table.add_column(name, justify="right")
        for domain, weights in found.items():
            largest = max(weights.values())
            table.add_row(domain, *(f"[bold]{w:.3f}[/bold]" if w == largest else f"{w:.3f}" for w in weights.values()))
        say(table)
        path = Path(self.folder or trainer.default_root_dir) / f"{'test_' if prefix[0] == 't' else ''}gate_weights.png"
        draw_gate_weights({domain: list(weights.values()) for domain, weights in found.items()}, names, path)
        say(f"picture: {shortest(path)}")
