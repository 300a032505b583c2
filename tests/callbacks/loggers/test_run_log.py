"""What loggers get beside the metrics: rates, gradient norm, options, pictures and tables."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import Logger

from fulgurite.adapters import LoRA
from fulgurite.callbacks import LearningCurve, RunLog
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import ClassificationModule


class Board:
    """TensorBoard's writer, as far as it is used."""

    def __init__(self) -> None:
        self.images: dict[str, Any] = {}
        self.texts: dict[str, str] = {}

    def add_image(self, name: str, image: Any, step: int, dataformats: str) -> None:
        self.images[name] = (image.shape, step, dataformats)

    def add_text(self, name: str, text: str, step: int) -> None:
        self.texts[name] = text


class Recorded(Logger):
    """A logger that keeps what it is told."""

    name, version = "recorded", 0

    def __init__(self) -> None:
        self.experiment, self.metrics, self.options = Board(), [], {}  # type: ignore[var-annotated]

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_hyperparams(self, params: Any, *args: Any) -> None:
        self.options.update(params)


class Table(Callback):
    """Writes a table as the reports do."""

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        (Path(trainer.default_root_dir) / "ranks.csv").write_text("layer,rank\nq,3\n")


def test_loggers_get_rates_norms_options_pictures_and_tables(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_bytes(b"of an earlier run")
    import os

    os.utime(tmp_path / "old.png", (0, 0))
    logger, plain = Recorded(), CSVLogger(tmp_path, name="logs")
    trainer = Trainer(
        accelerator="cpu", max_epochs=2, limit_val_batches=2, log_every_n_steps=2, logger=[logger, plain],
        callbacks=[LearningCurve(), Table(), RunLog()], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    module = ClassificationModule("playground", adapter=LoRA(rank=2), learning_rate=1e-3, head_learning_rate=5e-3)
    norms = []
    module.on_before_optimizer_step = lambda optimizer: norms.append(  # type: ignore[method-assign, assignment]
        float(torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None]).norm())
    )
    data = GLUEDataModule("sst2", path="builtin", splits="train", limit_train=40, batch_size=4, max_length=32)
    trainer.fit(module, data)
    logged = [values for _, values in logger.metrics if "grad_norm" in values]
    assert [values["grad_norm"] for values in logged] == pytest.approx(norms[1::2], rel=1e-5)
    rates = {name: value for name, value in logged[0].items() if name.startswith("lr")}
    assert len(rates) >= 2 and max(rates.values()) == pytest.approx(5 * min(rates.values()))
    assert logger.options["model/backbone"] == "playground" and logger.options["model/learning_rate"] == 1e-3
    assert logger.options["data/class"] == "GLUEDataModule" and logger.options["data/batch_size"] == 4
    assert logger.experiment.images["learning_curve"][1:] == (20, "HWC") and "old" not in logger.experiment.images
    assert "| layer | rank |" in logger.experiment.texts["ranks"] and "| q | 3 |" in logger.experiment.texts["ranks"]
    written = next((tmp_path / "logs").glob("version_*/metrics.csv"))
    with open(written, newline="") as stream:
        assert "grad_norm" in next(csv.reader(stream))
    assert "playground" in written.with_name("hparams.yaml").read_text()


def test_loggers_with_calls_of_their_own_for_pictures_and_tables(tmp_path: Path) -> None:
    """W&B's logger has `log_image` and `log_table`, and no writer."""
    from types import SimpleNamespace

    told: list[Any] = []
    logger: Any = SimpleNamespace(
        log_image=lambda key, images: told.append((key, images)),
        log_table=lambda key, columns, data: told.append((key, columns, data)),
    )
    log = RunLog(str(tmp_path))
    trainer: Any = SimpleNamespace(
        is_global_zero=True, loggers=[logger], default_root_dir=str(tmp_path), global_step=3, datamodule=None
    )
    log._began = 0.0
    (tmp_path / "curve.png").write_bytes(b"picture")
    (tmp_path / "ranks.csv").write_text("layer,rank\nq,3\n")
    (tmp_path / "samples.jsonl").write_text('{"step": 0, "prompt": "a"}\n')
    log.on_fit_end(trainer, None)  # type: ignore[arg-type]
    assert told == [
        ("curve", [str(tmp_path / "curve.png")]),
        ("ranks", ["layer", "rank"], [["q", "3"]]),
        ("samples", ["step", "prompt"], [["0", "a"]]),
    ]
