"""Several processes train one model: only with strategies that were proved, and only while their weights are equal.

A strategy that does not add the gradients up, or that cuts parameters into pieces, trains something else without an error. So the
strategies whose losses were compared with one process's are allowed and the others are refused; and after the first optimizer step
every process compares a hash of each trained parameter with those of the others, whatever the strategy is called.
"""

from __future__ import annotations

from typing import Any

import torch
import xxhash
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import nn
from torch.distributed.tensor import DTensor

from fulgurite.lightning_modules.processes.refusals import refuse_on_shards
from fulgurite.lightning_modules.processes.strategy import ShardedStrategy

__all__ = ["EqualReplicas", "check_strategy"]

_PROVED = (SingleDeviceStrategy, DDPStrategy)


def check_strategy(owner: str, strategy: object) -> None:
    """Refuse a strategy that was not proved. A subclass that does not come with Lightning counts as the class that it extends.

    ShardedStrategy was proved for what :mod:`fulgurite.lightning_modules.processes.refusals` lets through.

    Args:
        owner: class name of the module that trains, for the message.
        strategy: the trainer's.

    Raises:
        ValueError: FSDP, DeepSpeed, ModelParallel, XLA or any other but one device and DDP.
    """
    if isinstance(strategy, ShardedStrategy):
        return
    known = next(
        (
            kind
            for kind in type(strategy).__mro__
            if kind.__module__.split(".")[0] in ("lightning", "pytorch_lightning")
        ),
        None,
    )
    if known not in _PROVED:
        raise ValueError(
            f"{owner}: the strategy {type(strategy).__name__} was given; its training was not proved equal to that of one process; "
            "allowed are ddp (DDPStrategy), fsdp2 (ShardedStrategy) and one device (auto with devices 1); give "
            "--trainer.strategy ddp"
        )


class EqualReplicas(Callback):
    """Checks the strategy before training, and after the first optimizer step that all processes hold the same weights."""

    def __init__(self) -> None:
        self._first: int | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse what was not proved, before anything is loaded."""
        if stage == "fit":
            check_strategy(type(pl_module).__name__, trainer.strategy)
        if isinstance(trainer.strategy, ShardedStrategy):
            module: Any = pl_module  # a FinetuneModule
            refuse_on_shards(module, getattr(trainer, "datamodule", None), str(trainer.precision))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember where this run begins."""
        self._first = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Compare the weights once, as soon as a step was made."""
        if self._first is None or trainer.global_step == self._first:
            return
        self._first = None
        if trainer.world_size > 1:
            _compare(pl_module, trainer)


def _compare(module: LightningModule, trainer: Trainer) -> None:
    held = {
        n: p for n, p in module.named_parameters() if p.requires_grad and not isinstance(p, DTensor)
    }  # shards have no replica
    names = list(held)
    hashes = torch.tensor([_hash(p) for p in held.values()], dtype=torch.int64, device=module.device)
    every = trainer.strategy.all_gather(torch.cat([hashes.new_tensor([len(names)]), hashes]))
    other = (every != every[:1]).any(0).nonzero().flatten().tolist()
    if other:
        name = names[max(other[0] - 1, 0)]
        raise RuntimeError(
            f"{type(module).__name__}: after the first optimizer step the {trainer.world_size} processes hold different weights "
            f"({len(other)} of {len(names)} trained parameters, the first is {name!r}), so their gradients were not added up or "
            "they began with different weights; train with --trainer.strategy ddp, and see that nothing on one process only "
            "(a callback, a seed, a file) changes the weights"
        )


def _hash(parameter: nn.Parameter) -> int:
    """63 bits of the parameter's bytes."""
    data = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return xxhash.xxh3_64(data.data).intdigest() >> 1
