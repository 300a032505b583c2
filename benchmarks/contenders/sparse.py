"""The sparse adapters that are compared, put into any model on its linear layers, all with the same mask.

``plain torch`` copies the weight in the forward and computes its whole gradient in the backward. PEFT's SHiRA and SuperTuning
choose their positions by rules of their own (r(m + n) at random; the largest magnitudes); here each layer is given the same
mask, by replacing positions and values after PEFT made its layers, so that all compute the same numbers.
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

from fulgurite.adapters import APET, attach

__all__ = ["SPARSE_PLACERS", "SparseLayer", "SparsePlaced", "fill_deltas", "mask", "why_not_sparse"]


@dataclass(frozen=True)
class SparseLayer:
    """One adapted layer: the flat positions in its weight, (n,), sorted, and δ (n,) in their order."""

    index: torch.Tensor
    delta: nn.Parameter


@dataclass(frozen=True)
class SparsePlaced:
    """A model with sparse adapters, its layers in the model's order, and what brings δ into effect after a change by hand."""

    model: nn.Module
    layers: list[SparseLayer]
    handle: Any = None
    sync: Callable[[], None] = lambda: None


def mask(shape: torch.Size | tuple[int, ...], density: float, seed: int, device: Any = "cpu") -> torch.Tensor:
    """Uniform random positions in a matrix, (n,) int64, sorted; drawn on the device."""
    numel = shape[0] * shape[1]
    drawn = torch.randperm(numel, generator=torch.Generator(device).manual_seed(seed), device=device)
    return drawn[: max(1, round(numel * density))].sort()[0]


def _linears(model: nn.Module, targets: str) -> dict[str, nn.Linear]:
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(targets, n)}


class _CopiedWeight(nn.Module):
    def __init__(self, linear: nn.Linear, index: torch.Tensor) -> None:
        super().__init__()
        wide = torch.promote_types(linear.weight.dtype, torch.float32)
        self.linear, self.index = linear, index
        self.delta = nn.Parameter(torch.zeros(index.numel(), dtype=wide, device=linear.weight.device))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, K) -> (…, N)."""
        weight = self.linear.weight
        live = weight.view(-1).index_add(0, self.index, self.delta.to(weight.dtype)).view_as(weight)
        return F.linear(x, live, self.linear.bias)


def _plain(model: nn.Module, targets: str, density: float) -> SparsePlaced:
    layers = []
    model.requires_grad_(False)
    for number, (name, linear) in enumerate(_linears(model, targets).items()):
        new = _CopiedWeight(linear, mask(linear.weight.shape, density, number, linear.weight.device))
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, new)
        layers.append(SparseLayer(new.index, new.delta))
    return SparsePlaced(model, layers)


def _ours(model: nn.Module, targets: str, density: float) -> SparsePlaced:
    linears = _linears(model, targets)
    positions = {
        f"{name}.weight": mask(linear.weight.shape, density, number, linear.weight.device)
        for number, (name, linear) in enumerate(linears.items())
    }
    adapter = attach(model, APET(selection="mask"), positions=positions)
    deltas = adapter.deltas
    layers = [SparseLayer(index, deltas[name]) for name, index in positions.items()]
    return SparsePlaced(model, layers, adapter, adapter.sync)


def _peft(
    config: Any, model: nn.Module, density: float, replace: Callable[[Any, torch.Tensor], nn.Parameter]
) -> SparsePlaced:
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    wrapped = get_peft_model(model, config)
    layers = []
    for number, layer in enumerate(m for m in wrapped.modules() if isinstance(m, BaseTunerLayer)):
        weight: Any = layer.get_base_layer().weight
        index = mask(weight.shape, density, number, weight.device)
        layers.append(SparseLayer(index, replace(layer, index)))
    return SparsePlaced(wrapped, layers, wrapped)


def _shira(model: nn.Module, targets: str, density: float) -> SparsePlaced:
    from peft import ShiraConfig

    def replace(layer: Any, index: torch.Tensor) -> nn.Parameter:
        width = layer.in_features
        layer.shira_indices["default"] = torch.stack([index // width, index % width]).int()
        layer.shira_weight["default"] = nn.Parameter(torch.zeros(index.numel(), device=index.device))
        return layer.shira_weight["default"]

    return _peft(ShiraConfig(r=1, target_modules=f"({targets})"), model, density, replace)


def _supertuning(model: nn.Module, targets: str, density: float) -> SparsePlaced:
    from peft import SupertuningConfig

    def replace(layer: Any, index: torch.Tensor) -> nn.Parameter:
        layer.supertuning_indices["default"] = index.int()
        layer.supertuning_values["default"] = nn.Parameter(torch.zeros(index.numel(), device=index.device))
        return layer.supertuning_values["default"]

    return _peft(SupertuningConfig(target_modules=f"({targets})"), model, density, replace)


SPARSE_PLACERS: dict[str, Callable[[nn.Module, str, float], SparsePlaced]] = {
    "plain torch": _plain,
    "PEFT SHiRA": _shira,
    "PEFT SuperTuning": _supertuning,
    "fulgurite": _ours,
}


def why_not_sparse(contender: str) -> str | None:
    """Why a contender cannot run here, or None."""
    if not contender.startswith("PEFT"):
        return None
    if importlib.util.find_spec("peft") is None:
        return "the package peft is not installed"
    import peft

    name = {"PEFT SHiRA": "ShiraConfig", "PEFT SuperTuning": "SupertuningConfig"}[contender]
    return None if hasattr(peft, name) else f"peft {peft.__version__} has no {name}"


@torch.no_grad()
def fill_deltas(placed: SparsePlaced, size: float) -> None:
    """Random δ, the same for every contender."""
    for number, layer in enumerate(placed.layers):
        generator = torch.Generator().manual_seed(number)
        layer.delta.copy_(torch.randn(layer.delta.numel(), generator=generator) * size)
    placed.sync()
