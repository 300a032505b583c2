"""ShardedStrategy: FSDP2 through Lightning's ModelParallelStrategy, over all processes, with the checkpoints of one process.

A checkpoint is gathered on process 0 into one file, the same that one device or DDP writes. So a run goes on with any number of
processes, and every command reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from lightning.fabric.plugins.collectives.torch_collective import default_pg_timeout
from lightning.fabric.utilities.optimizer import _optimizer_to_device
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from lightning.pytorch.strategies.parallel import ParallelStrategy
from torch import nn
from torch.distributed.fsdp import FSDPModule

from fulgurite.lightning_modules.processes.sharding import as_shards, average_gradients, gathered, shard

__all__ = ["ShardedStrategy", "cut", "register_strategy"]


class ShardedStrategy(ModelParallelStrategy):
    """Cuts the network of this package's modules into shards: the frozen base under an adapter, all of it in full tuning.

    On the command line it is ``--trainer.strategy fsdp2``.

    Args:
        process_group_backend: "nccl" or "gloo"; None: what fits the device.
        timeout: how long a process waits for another.
    """

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__(
            save_distributed_checkpoint=False, process_group_backend=process_group_backend, timeout=timeout
        )

    def setup_environment(self) -> None:
        """One dimension of processes, over all machines."""
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """As in DDP: the weights come before the optimizers are made, which look at them."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The optimizer's state lies in the checkpoint's file."""
        return True

    def shard(self, network: nn.Module, trained_apart: bool) -> None:
        """Cut a network into shards.

        Args:
            network: whole, the same on all processes.
            trained_apart: what is trained stays whole, because it is an adapter.
        """
        whole = [p for p in network.parameters() if p.requires_grad] if trained_apart else []
        shard(network, self.device_mesh["data_parallel"], self.root_device, whole)

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], model: Any = None, **options: Any) -> Any:
        """Average the gradients of what is whole before they are clipped and the optimizer steps."""

        def averaged() -> Any:
            loss = closure()
            average_gradients(p for group in optimizer.param_groups for p in group["params"])
            return loss

        return super().optimizer_step(optimizer, averaged, model, **options)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """With its shards: callbacks drop the frozen ones before anything is gathered."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """With its shards."""
        state: dict[str, Any] = getattr(optimizer, "optimizer", optimizer).state_dict()
        return state

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Gather on process 0, and write one file there."""
        super().save_checkpoint(gathered(checkpoint, self.is_global_zero), filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The content of the file, on each process."""
        return ParallelStrategy.load_checkpoint(self, checkpoint_path, weights_only=weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Each process takes its part of each tensor."""
        module = self.lightning_module
        assert module is not None
        own = module.state_dict()
        state = {key: as_shards(value, own.get(key)) for key, value in checkpoint["state_dict"].items()}
        module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Each process takes its part of the state of each of its shards."""
        for optimizer, saved in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            keys = [key for group in saved["param_groups"] for key in group["params"]]
            state = dict(saved["state"])
            for key, parameter in zip(keys, parameters, strict=True):
                if key in state:
                    state[key] = {name: as_shards(value, parameter) for name, value in state[key].items()}
            optimizer.load_state_dict({**saved, "state": state})
            _optimizer_to_device(optimizer, self.root_device)


def cut(network: nn.Module | None, trained_apart: bool, trainer: Any) -> None:
    """Cut a network into shards, once, if the trainer's strategy is :class:`ShardedStrategy`.

    Args:
        network: of a module of this package, if it is built.
        trained_apart: whether an adapter is trained.
        trainer: Lightning's, or None.
    """
    strategy = getattr(trainer, "strategy", None)
    if isinstance(strategy, ShardedStrategy) and network is not None and not isinstance(network, FSDPModule):
        strategy.shard(network, trained_apart)


def register_strategy() -> None:
    """Make the name "fsdp2" known to Lightning's Trainer."""
    if "fsdp2" not in StrategyRegistry:
        StrategyRegistry.register("fsdp2", ShardedStrategy, description="FSDP2 over all processes")
