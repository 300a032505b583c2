"""Data and a callback that make one process of a run fail, each in its own way."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from fulgurite.datamodules import GLUEDataModule


class BadRows(GLUEDataModule):
    """Rows that only the first process cannot read."""

    def setup(self, stage: str | None = None) -> None:
        if os.environ.get("LOCAL_RANK", "0") == "0":
            raise ValueError("row 17 of train.jsonl has no label")
        super().setup(stage)


class Killed(Callback):
    """The second process is killed by kill -9 at its second batch, while the others compute for long.

    Args:
        file: where the moment is written.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and trainer.global_rank == 1:
            Path(self.file).write_text(str(time.time()))
            os.kill(os.getpid(), signal.SIGKILL)
        elif batch_idx == 1:
            time.sleep(300)
