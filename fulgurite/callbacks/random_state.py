"""Random state in checkpoints: Lightning saves none, so a run resumed with dropout would draw other masks.

The states of Python, NumPy, PyTorch and the GPUs are taken on every rank when a checkpoint is written. They are put back right
before the first batch after resuming, so that random numbers drawn by the set-up in between change nothing.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

__all__ = ["RandomState"]


class RandomState(Callback):
    """Save the random state of every process with each checkpoint, and restore it on resume."""

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        """One state per rank."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return {"ranks": [_capture()]}
        states: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(states, _capture())
        return {"ranks": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until training starts."""
        self._pending = state_dict

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Restore before the first batch after a resume."""
        if self._pending is None:
            return
        ranks, self._pending = self._pending["ranks"], None
        if trainer.global_rank < len(ranks):
            _restore(ranks[trainer.global_rank])


def _capture() -> dict[str, Any]:
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ],
        "torch": torch.get_rng_state(),
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],  # of this process's device
    }


def _restore(state: dict[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"].cpu())
    states = state["cuda"]
    if bool(states) != torch.cuda.is_available():
        places = ("a GPU", "the CPU") if states else ("the CPU", "a GPU")
        rank_zero_warn("RandomState: saved on {}, resumed on {}: dropout masks will be others".format(*places))
    elif states:
        mine = torch.cuda.current_device() if len(states) > 1 else 0  # files of earlier versions hold all devices
        torch.cuda.set_rng_state(states[min(mine, len(states) - 1)].cpu())
