"""A network cut into shards by FSDP2: each process holds a part of each weight, and gathers a layer while it computes with it.

In full tuning all weights are cut; under an adapter the frozen base is. The adapter's own parameters, and trained heads, stay whole
on each process, and their gradients are averaged as in DDP: they are small, ranks can retire, gates lie in one arena, and a
checkpoint holds them as ever.

A loss reads more than the outputs of ``forward``: the decoder's states, the head's weight. Whatever computes with the network
therefore goes through :func:`computed_with`, inside of which the embedding, the last norm and the head are gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MethodType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["as_shards", "average_gradients", "computed_with", "gathered", "shard", "whole"]

T = TypeVar("T")
_RUN = "computed_by"


def shard(network: nn.Module, mesh: DeviceMesh, device: torch.device, apart: Iterable[nn.Parameter] = ()) -> None:
    """Cut a network into shards, layer by layer, with the weights of process 0 on all processes.

    Args:
        network: a transformers model, the same on all processes but for random values.
        mesh: of all processes, one dimension.
        device: of this process.
        apart: parameters that stay whole.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        sent = tensor.detach().to(device)
        dist.broadcast(sent, 0)
        tensor.detach().copy_(sent)
    options: dict[str, Any] = {"mesh": mesh, "ignored_params": set(apart)}
    for block in _blocks(network):
        fully_shard(block, **options)
    fully_shard(network, **options)
    setattr(network, _RUN, MethodType(_call, network))
    register_fsdp_forward_method(network, _RUN)


def computed_with(network: nn.Module, function: Callable[..., T], *args: Any) -> T:
    """``function(network, *args)``; of a sharded network the parts outside of the layers are gathered meanwhile."""
    run = getattr(network, _RUN, None)
    if run is None:
        return function(network, *args)
    found: T = run(function, *args)
    if not torch.is_grad_enabled() and isinstance(network, FSDPModule):
        network.reshard()  # with gradients the backward does it
    return found


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean over all processes of the gradients of whole parameters; one without a gradient anywhere keeps none.

    Args:
        parameters: the same on all processes, in the same order; shards are left alone, whose gradients FSDP has averaged.
    """
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad and not isinstance(parameter, DTensor):
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for some in by_dtype.values():
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in some]
        there = parts[0].new_tensor([p.grad is not None for p in some])
        flat = torch.cat([there, *(part.flatten() for part in parts)])
        dist.all_reduce(flat)
        there, *means = flat.split([len(some), *(p.numel() for p in some)])
        for parameter, number, total in zip(some, there.tolist(), means, strict=True):
            mean = (total / dist.get_world_size()).view_as(parameter)
            if parameter.grad is not None:
                parameter.grad.copy_(mean)
            elif number:
                parameter.grad = mean


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor without its history; of a shard all of it, for which all processes have to ask."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(value: Any, keep: bool) -> Any:
    """A nest of dicts and lists with each sharded tensor made whole on the CPU. All processes have to call it, with equal nests.

    Args:
        value: what is saved.
        keep: False gives empty tensors in the place of whole ones, for processes that do not write.
    """
    if isinstance(value, DTensor):
        tensor = whole(value)
        return tensor.cpu() if keep else tensor.new_empty(0)
    if isinstance(value, Mapping):
        return {key: gathered(item, keep) for key, item in value.items()}
    if isinstance(value, list):
        return [gathered(item, keep) for item in value]
    return value


def as_shards(value: Any, like: Any) -> Any:
    """The part of a whole tensor that belongs to this process, where ``like`` is sharded and has its shape."""
    if not (isinstance(like, DTensor) and isinstance(value, torch.Tensor)) or isinstance(value, DTensor):
        return value
    if value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def _call(network: nn.Module, function: Callable[..., T], *args: Any) -> T:
    return function(network, *args)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated layers, by the names of their classes that transformers gives; one inside another is not taken."""
    names = set(getattr(network, "_no_split_modules", None) or ())
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if type(module).__name__ in names and not inside and any(True for _ in module.parameters()):
            found[name] = module
    return list(found.values())
