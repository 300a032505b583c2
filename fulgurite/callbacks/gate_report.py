"""Which specialist a gate listens to: a table by domain, `gate_weights.png`, and answers coloured token by token.

UltraFuser (https://arxiv.org/abs/2403.08281) reports on text .45/.29/.26, on code .23/.59/.18 and on maths .18/.39/.43 of
its text, code and maths specialists.
"""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table

from fulgurite.callbacks.gate_picture import draw_gate_text, draw_gate_weights, write_gate_html
from fulgurite.console import say, shortest

__all__ = ["GateReport"]


class GateReport(Callback):
    """Reads the gate weights that a module logged as `val_gate/<domain>/<specialist>`; does nothing where there are none.

    At the end of a fit it also has the first validation prompts answered, where the module has `gate_samples` and the data
    `sample_views`: `gate_tokens.html` and `gate_tokens.png`.

    Args:
        folder: where pictures go; None takes the trainer's default_root_dir
        samples: answers that are generated and coloured; 0 for none
    """

    def __init__(self, folder: str | None = None, samples: int = 6) -> None:
        if samples < 0:
            raise ValueError(f"GateReport: samples is {samples}; allowed are 0 and more")
        self.folder, self.samples = folder, samples

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the last validation's weights.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        if not getattr(trainer, "fast_dev_run", False) and self._report(trainer, "val_gate/"):
            self._colour(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reports the test's weights.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._report(trainer, "test_gate/")

    def _colour(self, trainer: Trainer, pl_module: Any) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if not self.samples or not hasattr(pl_module, "gate_samples") or not hasattr(data, "sample_views"):
            return
        views = data.sample_views(self.samples)
        if not views:
            return
        answers = pl_module.gate_samples(data.load_tokenizer(), views)
        page = Path(self.folder or trainer.default_root_dir) / "gate_tokens.html"
        write_gate_html(answers, pl_module.specialist_names, page)
        draw_gate_text(answers, pl_module.specialist_names, page.with_suffix(".png"))
        say(f"answers coloured by the gate: {shortest(page)}")

    def _report(self, trainer: Trainer, prefix: str) -> bool:
        """Whether there was something to report, on the first process."""
        found: dict[str, dict[str, float]] = {}
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix) and value == value:
                domain, _, specialist = name.removeprefix(prefix).partition("/")
                found.setdefault(domain, {})[specialist] = float(value)
        if not found or not trainer.is_global_zero:
            return False
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
        return True
