"""One small data module of each family on built-in rows, and a module that only records what reaches it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from fulgurite.datamodules import (
    CPODataModule,
    GLUEDataModule,
    PETTasksDataModule,
    UltraChat2DataModule,
    UltraFeedbackDataModule,
    UltraLinkDataModule,
)

COMMON: dict[str, Any] = {"path": "builtin", "tokenizer": "playground"}
PACKED: dict[str, Any] = {"batch_size": 1, "max_length": 96, "token_budget": 200}
FUSED: dict[str, Any] = {"batch_size": [2], "max_length": 128, "templates": ["ultrachat", "mistral", "wizardmath"]}
EVERY: dict[str, Callable[..., Any]] = {
    "glue": lambda **more: GLUEDataModule("sst2", splits="train", batch_size=4, **COMMON, **more),
    "pet_tasks": lambda **more: PETTasksDataModule("sst2", task_type="causal_lm", batch_size=4, **COMMON, **more),
    "ultralink": lambda **more: UltraLinkDataModule(max_length=256, batch_size=2, weights=None, **COMMON, **more),
    "ultrafeedback": lambda **more: UltraFeedbackDataModule(**PACKED, **COMMON, **more),
    "cpo": lambda **more: CPODataModule("cpsft", batch_size=1, max_length=128, **COMMON, **more),
    "ultrachat2": lambda **more: UltraChat2DataModule(**FUSED, **COMMON, **more),
}


class Seen(LightningModule):
    """Counts the batches of each loop and keeps a figure that tells training batches apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.train_batches: list[tuple[int, float]] = []
        self.counts = {"val": 0, "test": 0, "predict": 0}

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        figures = [float((v.double() * torch.arange(1, v.numel() + 1).view(v.shape)).nansum()) for v in _tensors(batch)]
        self.train_batches.append((int(batch["tokens_in_window"]), sum(figures)))
        loss: torch.Tensor = self.layer(torch.ones(1, 1)).sum()
        return loss

    def validation_step(self, batch: Any, index: int) -> None:
        self.counts["val"] += 1

    def test_step(self, batch: Any, index: int) -> None:
        self.counts["test"] += 1

    def predict_step(self, batch: Any, index: int) -> None:
        self.counts["predict"] += 1

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def _tensors(batch: Any) -> list[torch.Tensor]:
    return [batch[key] for key in sorted(batch) if isinstance(batch[key], torch.Tensor)]


def quiet_trainer(folder: Path, **options: Any) -> Trainer:
    """A trainer on the CPU that writes nothing unless it is told to."""
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {"enable_checkpointing": bool(options.get("callbacks")), "num_sanity_val_steps": 0, "max_epochs": 1}
    return Trainer(accelerator="cpu", default_root_dir=folder, **{**quiet, **options})
