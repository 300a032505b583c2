"""A callback that records training losses exactly, and may crash behind a given batch."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer


class Losses(Callback):
    """The training losses, exactly, and an optional crash behind a given batch."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.values: list[float] = []
        self.crash_at = crash_at

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        self.values.append(float(loss.detach()))
        if self.crash_at is not None and len(self.values) == self.crash_at:
            raise RuntimeError("killed")
