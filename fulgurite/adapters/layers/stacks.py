"""Where a model keeps the experts of its mixtures stacked in three-dimensional Parameters, as transformers does since version 5.

A module of stacked experts has, for each of its E experts, the rows of ``gate_up_proj`` (or ``up_proj``) and ``down_proj``: weights
(E, N, K), or (E, K, N) in architectures that keep them transposed (gpt-oss). It is known by the attributes that transformers gives
to every class which it can compute in more than one way, so that this package needs no transformers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from fulgurite.adapters.layers.experts import experts_forward
from fulgurite.adapters.layers.own import inserted_modules

__all__ = ["Stack", "expert_stacks", "prove_experts", "unknown_stacks"]

_KEYS = ("gate_up_proj", "up_proj", "down_proj")
_MARKS = ("num_experts", "has_gate", "has_bias", "is_transposed", "_apply_gate")


class Stack(NamedTuple):
    """One Parameter in which the weights of E experts are stacked.

    Attributes:
        layer: qualified name of the module that holds it.
        key: its name there.
        module: that module.
        experts: E.
        in_features: K.
        out_features: N.
    """

    layer: str
    key: str
    module: nn.Module
    experts: int
    in_features: int
    out_features: int


def _has_stacks(module: nn.Module) -> bool:
    """Whether the module holds stacked experts whose forward is known (:mod:`fulgurite.adapters.layers.experts`).

    Args:
        module: any.
    """
    if not all(hasattr(module, mark) for mark in _MARKS):
        return False
    kept = [module._parameters.get(key) for key in ("gate_up_proj" if module.has_gate else "up_proj", "down_proj")]
    return all(weight is not None and weight.dim() == 3 for weight in kept)


def expert_stacks(model: nn.Module) -> dict[str, Stack]:
    """The stacked weights of a model's experts, by qualified name of the Parameter, in the model's order.

    Args:
        model: any.
    """
    inserted, found = inserted_modules(model), {}
    for layer, module in model.named_modules():
        if id(module) in inserted or not _has_stacks(module):
            continue
        for key, weight in module._parameters.items():
            if key in _KEYS and weight is not None:
                experts, *sides = weight.shape
                k, n = sides if module.is_transposed else reversed(sides)
                found[f"{layer}.{key}".lstrip(".")] = Stack(layer, key, module, experts, k, n)
    return found


def unknown_stacks(model: nn.Module) -> dict[str, str]:
    """Three-dimensional Parameters of experts whose forward is not known, by qualified name, with the class that holds them.

    Args:
        model: any.
    """
    return {
        f"{layer}.{key}".lstrip("."): type(module).__name__
        for layer, module in model.named_modules()
        if hasattr(module, "num_experts") and not _has_stacks(module)
        for key, weight in module._parameters.items()
        if weight is not None and weight.dim() == 3
    }


@torch.no_grad()
def prove_experts(stacks: Mapping[str, Stack]) -> None:
    """Compare one module of each class, computed by :func:`experts_forward` without a branch, with its own forward.

    Args:
        stacks: what is about to be adapted.

    Raises:
        ValueError: weights that are no floating-point numbers in full; experts that are spread over devices; other results.
    """
    for name, stack in stacks.items():
        layer: Any = stack.module
        weight = layer._parameters[stack.key]
        if not weight.dtype.is_floating_point or getattr(layer, "_is_expert_parallel", False):
            kind = f"quantised ({weight.dtype})" if not weight.dtype.is_floating_point else "spread over devices"
            raise ValueError(
                f"attach: the experts of {name} are {kind}, and cannot carry low-rank branches; load the base in full precision "
                "and without expert parallelism, or leave them out by targets=."
            )
    for layer in _first_of_each_class(stacks.values()):
        weight = layer._parameters["down_proj"]
        if weight.device.type == "meta":
            continue
        generator = torch.Generator().manual_seed(0)
        width = weight.shape[-1 if layer.is_transposed else -2]
        picks = min(2, layer.num_experts)
        x = torch.randn(3, width, generator=generator, device="cpu").to(weight)
        draws = torch.rand(3, layer.num_experts, generator=generator, device="cpu").topk(picks)
        given = x, draws.indices.to(weight.device), draws.values.to(weight)
        base = getattr(layer, "base_class", type(layer))
        try:
            expected = base.forward(layer, *given).double()
        except RuntimeError:
            continue  # it does not run here, such as grouped_mm in float64: there is nothing to be compared with
        found = experts_forward(layer, [], *given).double()
        epsilon = torch.finfo(weight.dtype).eps
        error = float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-30))
        if not error <= max(1e-4, 8 * epsilon if epsilon > 1e-6 else 0.0):
            raise ValueError(
                f"attach: {base.__name__} computes its experts otherwise than its attributes say (results differ by {error:.1g} of "
                "the largest), so that branches beside them would be wrong; leave the experts out by targets=."
            )


def _first_of_each_class(stacks: Iterable[Stack]) -> list[Any]:
    first: dict[type, nn.Module] = {}
    for stack in stacks:
        first.setdefault(type(stack.module), stack.module)
    return list(first.values())
