"""A callback that stops the second process of a run, as a debugger or an overloaded machine does."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer


class StopsItself(Callback):
    """Sends SIGSTOP to the second process after its second batch, and writes its number into FILE first.

    Args:
        file: where the process's number is written.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_rank == 1 and batch_idx == 1:
            Path(self.file).write_text(str(os.getpid()))
            os.kill(os.getpid(), signal.SIGSTOP)
