"""The processes of a run end together, within seconds, and each says why: the callback that holds the lifeline.

A process whose own step fails raises as ever, and tells the others. In the others the error of a lost connection gets the cause as
its text; one that waits where no error can reach it (NCCL) is ended after a few seconds, with the cause on the screen.
"""

from __future__ import annotations

import itertools
import os
import re
import sys
import threading
import warnings
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fulgurite.lightning_modules.processes.lifeline import Lifeline

__all__ = ["EndTogether"]

_GRACE = 10.0  # seconds that a process has to end by itself once it knows that another one has
_ARRIVES = 5.0  # seconds in which the cause follows a lost connection
_LOST = re.compile(
    r"connection|closed by peer|broken pipe|reset by peer|socket|gloo|nccl|remote process|timed ?out", re.IGNORECASE
)
_runs = itertools.count()


class EndTogether(Callback):
    """Ends this process when another one of its run has ended, and tells the others when this one does.

    Args:
        trainer: Lightning's, before its process group stands. With one process nothing is done.
    """

    def __init__(self, trainer: Any) -> None:
        self._line: Lifeline | None = None
        self._cause = ""
        self._known, self._ending = threading.Event(), threading.Event()
        self._trainer = trainer
        if trainer is not None and trainer.num_devices * trainer.num_nodes > 1:
            # From a thread, because there is no hook between the start of the process group and the work that may fail.
            threading.Thread(target=self._begin, args=(next(_runs),), daemon=True, name="lifeline").start()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Tell the others, or say in the error which of them has ended."""
        self._ending.set()
        if self._line is None:
            return
        lost = isinstance(exception, RuntimeError) and _LOST.search(str(exception)) is not None
        if lost and self._known.wait(_ARRIVES):
            exception.args = (self._cause,)
        elif not self._known.is_set():
            self._leave_children_alone()
            self._line.tell(_said(exception))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The work is done: what becomes of the other processes is no matter any more."""
        self._ending.set()
        if self._line is not None:
            self._line.close()

    def _begin(self, run: int) -> None:
        while not torch.distributed.is_initialized():
            if self._ending.wait(0.05):
                return
        # A connection of its own: the main thread's may be waiting for an answer for long.
        common: Any = torch.distributed.distributed_c10d._get_default_store()
        store = common.clone()
        store.set_timeout(timedelta(seconds=60))
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        address = os.environ.get("MASTER_ADDR") or self._trainer.strategy.cluster_environment.main_address
        self._line = Lifeline(rank, world, address, self._learn)
        try:
            self._line.begin(store, f"fulgurite/lifeline/{run}")
        except (OSError, RuntimeError) as error:
            if not self._ending.is_set():
                warnings.warn(
                    f"process {rank} of {world} has no connection to process 0 at {address} ({error}): should one of them be "
                    "killed, the others wait for --process_timeout seconds",
                    stacklevel=1,
                )

    def _learn(self, cause: str) -> None:
        self._cause = cause
        self._known.set()
        self._leave_children_alone()
        if not self._ending.wait(_GRACE):
            sys.stdout.flush()
            sys.stderr.write(f"fulgurite: error: {cause}\n")
            sys.stderr.flush()
            os._exit(1)

    def _leave_children_alone(self) -> None:
        """Lightning kills all processes of a machine once one of them has failed, often before this one has said why."""
        started = getattr(getattr(self._trainer.strategy, "launcher", None), "procs", None)
        if isinstance(started, list):
            started.clear()


def _said(exception: BaseException) -> str:
    if isinstance(exception, KeyboardInterrupt):
        return "it was interrupted"
    text = " ".join(str(exception).split())
    return f"{type(exception).__name__}: {text}" if text else type(exception).__name__
