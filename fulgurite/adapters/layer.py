"""Layers that carry branches: an adapted layer is an instance of a subclass of what it was, with the same weight Parameter.

The swap is done in place (``layer.__class__``), so hooks, references and every key of the base stay as they are and
taking the adapter off gives back the very same object. Linear layers and transformers' Conv1D go through the fused kernel; a
subclass with a forward of its own (a quantised layer, say) keeps that forward and gets the branch added to its output.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters.branch import LowRankBranch
from fulgurite.kernels import gated_lora_linear

if TYPE_CHECKING:
    from fulgurite.adapters.handle import Adapter

__all__ = ["AdaptedLayer", "Site", "adaptable", "features", "put_branch", "take_branch", "weight_is_transposed"]

_classes: dict[Any, Any] = {}


class Site:
    """What the adapters of one model share: who is attached, who is active, and what attaching has to undo."""

    def __init__(self) -> None:
        self.adapters: dict[str, Adapter] = {}
        self.active: tuple[str, ...] = ()
        self.required_grad: dict[str, bool] = {}
        self.load_hook: Any = None

    @contextmanager
    def using(self, names: tuple[str, ...]) -> Iterator[None]:
        """Within the block exactly these adapters are active."""
        before, self.active = self.active, names
        try:
            yield
        finally:
            self.active = before

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` for torch.utils.checkpoint: recompute with the adapters that were active in the forward."""
        return nullcontext(), self.using(self.active)


class AdaptedLayer(nn.Module):
    """Mixed in front of the class of the layer that carries branches.

    Attributes:
        branches: name of adapter -> its branch here.
        merged: name of adapter -> copy of the weight from before merging, or None if none was kept.
    """

    base_class: type[Any]
    fused_as: str | None
    weight: nn.Parameter
    bias: nn.Parameter | None
    branches: nn.ModuleDict
    merged: dict[str, torch.Tensor | None]
    site: Site

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The base layer's output plus every active branch that is not merged; x (…, K) -> (…, N)."""
        active = [
            cast(LowRankBranch, self.branches[name])
            for name in self.site.active
            if name in self.branches and name not in self.merged
        ]
        if not active:
            return self.base_class.forward(self, x)
        if self.fused_as is None:
            y, rest = self.base_class.forward(self, x), active
        else:
            weight = self.weight if self.fused_as == "linear" else self.weight.t()
            first, *rest = active
            a, gate, b = first.factors()
            dropout = first.dropout if self.training else 0.0
            y = gated_lora_linear(x, weight, self.bias, a, gate, b, first.scaling, dropout)
        for branch in rest:
            y = y + _low_rank(branch, x, self.training).to(y.dtype)
        return y

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _empty_adapted, (self.base_class,), self.__dict__


def adaptable(layer: nn.Module) -> bool:
    """Whether a branch can stand beside this layer: a linear layer or a Conv1D as transformers has it."""
    return isinstance(layer, nn.Linear) or _is_conv1d(type(layer))


def features(layer: nn.Module) -> tuple[int, int]:
    """(K, N): input and output features of an adaptable layer, also where the weight is stored packed."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    weight = layer.weight
    assert isinstance(weight, torch.Tensor)
    return weight.shape[0], weight.shape[1]


def weight_is_transposed(layer: nn.Module) -> bool:
    """Whether the weight is stored (K, N), as Conv1D does."""
    return not isinstance(layer, nn.Linear)


def put_branch(layer: nn.Module, name: str, branch: LowRankBranch, site: Site) -> AdaptedLayer:
    """Give ``layer`` a branch; its class becomes an adapted subclass of itself if it was not one."""
    if not isinstance(layer, AdaptedLayer):
        layer.__class__ = _adapted_class(type(layer))
        assert isinstance(layer, AdaptedLayer)
        layer.site = site
        layer.branches = nn.ModuleDict()
        layer.merged = {}
    layer.branches[name] = branch
    return layer


def take_branch(layer: AdaptedLayer, name: str) -> None:
    """Undo :func:`put_branch`; the layer is of its old class again once the last branch has gone."""
    del layer.branches[name]
    if not layer.branches:
        for attribute in ("branches", "merged", "site"):
            delattr(layer, attribute)
        layer.__class__ = layer.base_class


def _adapted_class(base: Any) -> Any:
    if base in _classes:
        return _classes[base]
    fields = {"base_class": base, "fused_as": _fusable(base), "__module__": __name__}
    _classes[base] = type(f"Adapted{base.__name__}", (AdaptedLayer, base), fields)
    return _classes[base]


def _empty_adapted(base: type[nn.Module]) -> nn.Module:
    cls = _adapted_class(base)
    return cast(nn.Module, cls.__new__(cls))


def _fusable(base: type[Any]) -> str | None:
    if issubclass(base, nn.Linear) and base.forward is nn.Linear.forward:
        return "linear"
    return "conv1d" if _is_conv1d(base) else None


def _is_conv1d(base: type) -> bool:
    """Known by name and shape convention, so that this package needs no transformers: y = x W + b with W (K, N)."""
    return base.__name__ == "Conv1D" and base.__module__.startswith("transformers.")


def _low_rank(branch: LowRankBranch, x: torch.Tensor, training: bool) -> torch.Tensor:
    """s · ((drop(x) Aᵀ) ⊙ g) Bᵀ in plain operations, in the branch's dtype or autocast's."""
    a, gate, b = branch.factors()
    if not torch.is_autocast_enabled(x.device.type):
        x = x.to(a.dtype)
    low = F.linear(F.dropout(x, branch.dropout, training), a)
    if gate is not None:
        low = low * gate
    return F.linear(low, b) * branch.scaling
