"""The low-rank layers that are compared, put into any model in place of its linear layers.

Each is used as its package ships it. ``plain torch`` is the kernel's twin; ``released SoRA`` is the composition of the authors'
code (TsinghuaC3I/SoRA, src/lora.py), whose parameters have the weight's dtype and whose gate has the shape (1, r).
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters import LoRA, SoRA, attach
from fulgurite.kernels import reference

__all__ = ["PLACERS", "Factors", "Placed", "fill", "forward_float64", "peft_placed", "why_not"]


@dataclass(frozen=True)
class Factors:
    """Parameters of one adapted layer: A (r, K), gate or None (any shape with r elements), B (N, r), and the scaling."""

    a: nn.Parameter
    gate: nn.Parameter | None
    b: nn.Parameter
    scaling: float

    def named(self) -> dict[str, nn.Parameter]:
        """Name -> parameter, without an absent gate."""
        return {n: p for n, p in (("lora_a", self.a), ("gate", self.gate), ("lora_b", self.b)) if p is not None}


@dataclass(frozen=True)
class Placed:
    """A model that carries a contender's adapter.

    Attributes:
        model: what is called.
        factors: one entry per adapted layer, in the model's order.
        handle: the contender's own handle (our Adapter, PEFT's tuner), None for bare modules.
        between: what the contender's users have to call behind each optimizer step, given its number from 1.
    """

    model: nn.Module
    factors: list[Factors]
    handle: Any = None
    between: Callable[[int], Any] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [p for f in self.factors for p in f.named().values()]


class _PlainLowRank(nn.Module):
    """The kernel's twin as a layer: every product a step of ordinary autograd."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float, gated: bool) -> None:
        super().__init__()
        n, k = linear.weight.shape
        options: dict[str, Any] = {"device": linear.weight.device}
        self.linear, self.scaling = linear, alpha / rank
        self.lora_a = nn.Parameter(torch.zeros(rank, k, **options))
        self.lora_b = nn.Parameter(torch.zeros(n, rank, **options))
        self.gate = nn.Parameter(torch.ones(rank, **options)) if gated else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, K) -> (…, N)."""
        weight, bias = self.linear.weight, self.linear.bias
        return reference.gated_lora_linear(x, weight, bias, self.lora_a, self.gate, self.lora_b, self.scaling)


class _ReleasedLowRank(nn.Module):
    """Frozen layer plus the released branch, run side by side and added."""

    def __init__(self, linear: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        n, k = linear.weight.shape
        self.linear, self.scaling = linear, alpha / rank
        self.lora_a = nn.Parameter(linear.weight.new_zeros(rank, k))
        self.lora_b = nn.Parameter(linear.weight.new_zeros(n, rank))
        self.gate = nn.Parameter(linear.weight.new_ones(1, rank))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, K) -> (…, N)."""
        low = (x @ self.lora_a.T).mul(self.gate) @ self.lora_b.T
        return self.linear(x) + low * self.scaling


def _place_modules(
    model: nn.Module, targets: str, make: Callable[[nn.Linear], _PlainLowRank | _ReleasedLowRank]
) -> Placed:
    model.requires_grad_(False)
    factors = []
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and re.fullmatch(targets, name):
            new = make(layer)
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, new)
            factors.append(Factors(new.lora_a, new.gate, new.lora_b, new.scaling))
    return Placed(model, factors)


def _ours(model: nn.Module, targets: str, rank: int, alpha: float, gated: bool, **options: Any) -> Placed:
    config = SoRA(rank, alpha, targets=targets, **options) if gated else LoRA(rank, alpha, targets=targets)
    adapter = attach(model, config)
    factors = [Factors(b.lora_a, b.gate, b.lora_b, b.scaling) for b in adapter.branches.values()]
    return Placed(model, factors, adapter)


def _plain(model: nn.Module, targets: str, rank: int, alpha: float, gated: bool) -> Placed:
    return _place_modules(model, targets, lambda linear: _PlainLowRank(linear, rank, alpha, gated))


def _released(model: nn.Module, targets: str, rank: int, alpha: float, gated: bool) -> Placed:
    return _place_modules(model, targets, lambda linear: _ReleasedLowRank(linear, rank, alpha))


def _peft(model: nn.Module, targets: str, rank: int, alpha: float, gated: bool, as_shipped: bool = True) -> Placed:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules=f"({targets})")
    return peft_placed(get_peft_model(model, config, autocast_adapter_dtype=as_shipped))


def peft_placed(wrapped: nn.Module) -> Placed:
    """What a model carries that PEFT's LoRA is on already."""
    layers: list[Any] = [m for m in wrapped.modules() if "default" in getattr(m, "lora_A", {})]
    factors = [
        Factors(m.lora_A["default"].weight, None, m.lora_B["default"].weight, m.scaling["default"]) for m in layers
    ]
    return Placed(wrapped, factors)


def _peft_half(model: nn.Module, targets: str, rank: int, alpha: float, gated: bool) -> Placed:
    return _peft(model, targets, rank, alpha, gated, as_shipped=False)


def _adalora(model: nn.Module, targets: str, rank: int, alpha: float, gated: bool) -> Placed:
    from peft import AdaLoraConfig, get_peft_model

    # alpha/rank here too: AdaLoRA divides lora_alpha by (rank + 1e-5).
    config = AdaLoraConfig(
        init_r=rank,
        target_r=max(rank // 2, 1),
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=f"({targets})",
        total_step=10**6,
    )
    wrapped = get_peft_model(model, config)
    layers = [m for m in wrapped.modules() if hasattr(m, "lora_E") and "default" in m.lora_E]
    factors = [
        Factors(
            m.lora_A["default"],
            m.lora_E["default"],
            m.lora_B["default"],
            m.scaling["default"] / (float(m.ranknum["default"].detach()) + 1e-5),
        )
        for m in layers
    ]
    return Placed(wrapped, factors, wrapped.base_model, wrapped.base_model.update_and_allocate)


PLACERS: dict[str, Callable[..., Placed]] = {
    "plain torch": _plain,
    "PEFT LoRA": _peft,
    "PEFT LoRA, bf16 adapters": _peft_half,
    "PEFT AdaLoRA": _adalora,
    "released SoRA": _released,
    "fulgurite": _ours,
}


def why_not(contender: str, device: str, dtype: torch.dtype, gated: bool) -> str | None:
    """Why a contender is not measured on this workload, or None.

    Args:
        contender: a key of ``PLACERS``, or a package of Triton kernels.
        device: "cpu" or "cuda".
        dtype: of the base.
        gated: whether the workload has a gate.
    """
    if contender in ("Unsloth", "Liger"):
        package = {"Unsloth": "unsloth", "Liger": "liger_kernel"}[contender]
        if device == "cpu":
            return "needs a GPU (its kernels are Triton's, launched on CUDA tensors)"
        if importlib.util.find_spec(package) is None:
            return f"the package {package} is not installed"
        return None
    if contender.startswith("PEFT") and importlib.util.find_spec("peft") is None:
        return "the package peft is not installed"
    if contender in ("PEFT LoRA", "PEFT LoRA, bf16 adapters") and gated:
        return "has no gate"
    if contender in ("PEFT AdaLoRA", "released SoRA") and not gated:
        return "always has a gate"
    if contender == "PEFT LoRA, bf16 adapters" and dtype != torch.bfloat16:
        return "the base is not bf16"
    return None


@torch.no_grad()
def fill(placed: Placed, seed: int = 0, size: float = 1.0) -> None:
    """Random factors, the same for every contender up to rounding; B (of this size) is not zero, or ∂A and ∂g would be."""
    for index, factors in enumerate(placed.factors):
        generator = torch.Generator().manual_seed(seed + index)
        rank, k = factors.a.shape
        values = {
            "lora_a": torch.randn(rank, k, generator=generator) / k**0.5,
            "lora_b": torch.randn(factors.b.shape[0], rank, generator=generator) * size / rank**0.5,
            "gate": torch.randn(rank, generator=generator),
        }
        for name, parameter in factors.named().items():
            parameter.copy_(values[name].reshape(parameter.shape))


def forward_float64(x: torch.Tensor, linear: nn.Linear, factors: Factors | None) -> dict[str, Any]:
    """y and the leaves of a float64 graph: {"y", "x", "lora_a", "gate", "lora_b"}, from the values that are really held."""
    leaves: dict[str, Any] = {"x": x.detach().double().requires_grad_()}
    weight = linear.weight.detach().double()
    bias = None if linear.bias is None else linear.bias.detach().double()
    if factors is None:
        return {**leaves, "y": F.linear(leaves["x"], weight, bias)}
    leaves |= {n: p.detach().double().requires_grad_() for n, p in factors.named().items()}
    gate = leaves["gate"].flatten() if "gate" in leaves else None
    y = reference.gated_lora_linear(
        leaves["x"], weight, bias, leaves["lora_a"], gate, leaves["lora_b"], factors.scaling
    )
    return {**leaves, "y": y}
