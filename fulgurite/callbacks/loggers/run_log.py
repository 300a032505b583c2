"""Learning rates, gradient norm, hyperparameters, and the run's pictures and tables, for whatever loggers the trainer has.

Every logger gets the numbers and the hyperparameters. Pictures and tables are files in the run's folder in any case; loggers that
take them (TensorBoard, Weights & Biases) get a copy at the end of the fit.
"""

from __future__ import annotations

import csv
import inspect
import json
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

__all__ = ["RunLog"]

_PLAIN = (str, int, float, bool, type(None))


class RunLog(Callback):
    """Logs `lr` (`lr/<group>` where there are several groups), `grad_norm` before clipping, options, pictures and tables.

    Args:
        folder: where pictures and tables are; None takes the trainer's default_root_dir
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder
        self._began = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs the options of module and data.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        self._began = time.time()
        options = {
            f"model/{name}": _plain(value) for name, value in pl_module.hparams.items() if name != "_instantiator"
        }
        data = getattr(trainer, "datamodule", None)
        if data is not None:
            options["data/class"] = type(data).__name__
            names = inspect.signature(type(data).__init__).parameters
            options |= {
                f"data/{name}": _plain(getattr(data, name)) for name in names if hasattr(data, name) and name != "self"
            }
        for logger in trainer.loggers:
            logger.log_hyperparams(options)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Logs rates and norm of the steps at the logging interval.

        Args:
            trainer: the trainer
            pl_module: its module
            optimizer: about to make a step
        """
        interval = max(1, trainer.log_every_n_steps)  # type: ignore[attr-defined]
        if not trainer.loggers or (trainer.global_step + 1) % interval:
            return
        rates = {str(group.get("name", index)): group["lr"] for index, group in enumerate(optimizer.param_groups)}
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms = [
            torch.linalg.vector_norm(g.detach().float().coalesce().values() if g.is_sparse else g.detach().float())
            for g in gradients
        ]
        figures: dict[str, Any] = {"lr": next(iter(rates.values()))}
        if len(set(rates.values())) > 1:
            figures = {f"lr/{name}": rate for name, rate in rates.items()}
        if norms:
            figures["grad_norm"] = torch.linalg.vector_norm(torch.stack([norm.to(norms[0].device) for norm in norms]))
        pl_module.log_dict(figures)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hands pictures and tables that this fit wrote to the loggers that take them.

        Args:
            trainer: the trainer
            pl_module: its module
        """
        folder = Path(self.folder or trainer.default_root_dir)
        if not trainer.is_global_zero or not trainer.loggers or not folder.is_dir():
            return
        fresh = [
            file for file in sorted(folder.iterdir()) if file.is_file() and file.stat().st_mtime >= self._began - 1
        ]
        for logger in trainer.loggers:
            for file in fresh:
                if file.suffix == ".png":
                    _log_picture(logger, file, trainer.global_step)
                elif file.suffix == ".csv" or file.name == "samples.jsonl":
                    _log_table(logger, file, trainer.global_step)


def _plain(value: Any) -> Any:
    """A value as loggers can write it: a task by its name, a path as it is typed."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(getattr(value, "name", None), str):
        return value.name
    return value if isinstance(value, _PLAIN) else json.dumps(value, default=str)


def _log_picture(logger: Any, file: Path, step: int) -> None:
    board: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_image"):
        logger.log_image(key=file.stem, images=[str(file)])
    elif hasattr(board, "add_image"):
        from matplotlib.image import imread

        board.add_image(file.stem, imread(file), step, dataformats="HWC")


def _log_table(logger: Any, file: Path, step: int) -> None:
    with open(file, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream)) if file.suffix == ".csv" else [json.loads(line) for line in stream]
    if not rows:
        return
    columns = list(rows[0])
    cells = [[str(row.get(column, "")) for column in columns] for row in rows]
    board: Any = getattr(logger, "experiment", None)
    if hasattr(logger, "log_table"):
        logger.log_table(key=file.stem, columns=columns, data=cells)
    elif hasattr(board, "add_text"):
        lines = [columns, ["---"] * len(columns), *cells]
        text = "\n".join(
            "| " + " | ".join(c.replace("|", "\\|").replace("\n", "<br>") for c in line) + " |" for line in lines
        )
        board.add_text(file.stem, text, step)
