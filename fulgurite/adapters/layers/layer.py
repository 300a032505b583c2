"""Layers that carry branches: the layer's class is replaced by a subclass of it, and the weight Parameter stays the same.

The class is swapped in place (``layer.__class__``), so that hooks, references and every key of the base stay as they are, and
taking the adapter off gives back the very same object. Linear layers and transformers' Conv1D go through the fused kernel, and so
do bitsandbytes' layers, whose weight is unpacked for it. Any other subclass with a forward of its own keeps that forward, and the
branch is added to its output. Stacked experts of a mixture, whose branches stand beside Parameters, go through a forward of ours.

A sparse branch (APET) lies *in* the weights: W holds base + δ at its positions. Linear layers and embeddings have an operator
that samples δ's gradient. In every other module the attribute (``layer.weight``) becomes a property. While gradients are
recorded it gives the same tensor with a gradient to δ, so that any forward is right, and so is code that reads the weight from
outside.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters.layers.experts import ExpertsBranch, experts_forward
from fulgurite.adapters.layers.low_rank_branch import LowRankBranch
from fulgurite.adapters.layers.packed import foreign_weight, unpacker_of
from fulgurite.adapters.layers.site import Recall, Site
from fulgurite.adapters.layers.sparse_branch import SparseBranch
from fulgurite.kernels import gated_lora_linear, live_values, sparse_delta_embedding, sparse_delta_linear
from fulgurite.kernels.low_rank.packed import packed_lora_linear

__all__ = [
    "AdaptedLayer",
    "Site",
    "adaptable",
    "features",
    "put_branch",
    "release",
    "take_branch",
    "tie",
    "weight_is_transposed",
]


class AdaptedLayer(nn.Module):
    """Base class that is put before the class of a layer that carries branches.

    Attributes:
        base_class: the class that the layer had.
        fused_as: "linear", "packed", "conv1d" or "embedding" where the layer has an operator of ours, else None.
        branches: the branch of each adapter here, by the adapter's name.
        merged: by the name of each merged adapter, a copy of the values from before the merge, or None if no copy was kept.
        site: what the adapters of the model share.
        live: names of the sparse adapters whose δ is in the weights now, in the order of attaching.
        live_attributes: the attributes that are properties.
        tied: by attribute, the layer and its attribute that own the tensor to which this one is tied, and the branches for it.
    """

    base_class: type[Any]
    fused_as: str | None
    weight: nn.Parameter
    bias: nn.Parameter | None
    branches: nn.ModuleDict
    merged: dict[str, torch.Tensor | None]
    site: Site
    live: tuple[str, ...]
    live_attributes: tuple[str, ...]
    tied: dict[str, tuple[AdaptedLayer, str]]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer's output plus every active branch that is not merged; of a linear layer x (…, K) -> (…, N)."""
        low_rank, experts, sparse = self._active()
        if not sparse and not self.tied:
            return self._dense(low_rank, experts, *args, **kwargs)
        if not torch.compiler.is_compiling():
            self._refresh()
        y = self._dense([], experts, *args, **kwargs) if experts else self._sparse(*args, **kwargs)
        for branch in low_rank:
            y = y + _low_rank(branch, _first(args, kwargs), self.training).to(y.dtype)
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            self._recall(y)
        return y

    def _active(self) -> tuple[list[LowRankBranch], list[ExpertsBranch], bool]:
        """Active low-rank branches that are not merged, of the layer or of its experts; whether it carries a sparse branch."""
        low_rank: list[LowRankBranch] = []
        experts: list[ExpertsBranch] = []
        sparse = False
        for name in self.site.active:
            if name in self.branches and name not in self.merged:
                branch = self.branches[name]
                if isinstance(branch, LowRankBranch):
                    low_rank.append(branch)
                elif isinstance(branch, ExpertsBranch):
                    experts.append(branch)
        for branch in self.branches.values():
            sparse = sparse or isinstance(branch, SparseBranch)
        return low_rank, experts, sparse

    def _dense(self, active: list[LowRankBranch], experts: list[ExpertsBranch], *args: Any, **kwargs: Any) -> Any:
        if experts:
            return experts_forward(self, experts, *args, *kwargs.values())
        if self.fused_as == "packed":  # also without a branch: bitsandbytes' own forward rounds otherwise
            return self._packed(active, _first(args, kwargs))
        if not active:
            return self.base_class.forward(self, *args, **kwargs)
        x = _first(args, kwargs)
        if self.fused_as not in ("linear", "conv1d") or foreign_weight(self) is not None:
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

    def _packed(self, active: list[LowRankBranch], x: torch.Tensor) -> torch.Tensor:
        unpack = unpacker_of(self.base_class)
        assert unpack is not None
        weight = functools.partial(unpack, self)
        k, n = features(self)
        a, gate, b = active[0].factors() if active else (x.new_empty(0, k), None, x.new_empty(n, 0))
        scaling, dropout = (active[0].scaling, active[0].dropout if self.training else 0.0) if active else (1.0, 0.0)
        y = packed_lora_linear(x, weight, self.bias, a, gate, b, scaling, dropout)
        for branch in active[1:]:
            y = y + _low_rank(branch, x, self.training).to(y.dtype)
        return y

    def _sparse(self, *args: Any, **kwargs: Any) -> Any:
        """The base layer with live weights: by our operator if the layer has one and exactly one adapter trains its weight."""
        trained = self.trained("weight") if self.fused_as is not None else []
        if len(trained) != 1:
            return self.base_class.forward(self, *args, **kwargs)
        branch, key = trained[0]
        x, weight, delta, index = _first(args, kwargs), self._parameters["weight"], branch.delta(key), branch.index[key]
        assert weight is not None
        if self.fused_as == "embedding":
            if self.max_norm is None and not self.scale_grad_by_freq:
                return sparse_delta_embedding(x, weight, delta, index, self.padding_idx)
            return self.base_class.forward(self, x)
        transposed, plan = self.fused_as == "conv1d", branch.plan(key, tuple(weight.shape))
        # A norm's trained weight may be a factor of x, and may hold other values when the backward comes to this layer.
        options: Any = {"transposed": transposed, "plan": plan, "recompute": not self.site.live_factors}
        return sparse_delta_linear(x, weight, self.bias, delta, index, **options)

    def trained(self, key: str) -> list[tuple[SparseBranch, str]]:
        """The sparse branches that train the attribute ``key`` now, each with the attribute's name in the layer that owns it."""
        if not torch.is_grad_enabled():
            return []
        owner, key = self.tied.get(key, (self, key))
        found = []
        for name in self.site.active:
            if name in owner.branches and name not in owner.merged:
                branch = owner.branches[name]
                if isinstance(branch, SparseBranch) and key in branch.index:
                    found.append((branch, key))
        return found

    def wanted(self) -> tuple[str, ...]:
        """The sparse adapters that should be in this layer's weights: the active and the merged ones."""
        return tuple(
            name
            for name, branch in self.branches.items()
            if isinstance(branch, SparseBranch) and (name in self.site.active or name in self.merged)
        )

    def write(self, names: tuple[str, ...]) -> None:
        """Put exactly the δ of these sparse adapters into the weights."""
        if self.live != names or len(names) > 1:
            for name in reversed(self.live):
                self._branch(name).write(self._parameters, live=False)
        for place, name in enumerate(names):
            self._branch(name).write(self._parameters, live=True, alone=place == 0)
        self.live = names

    def _refresh(self) -> None:
        """Write δ anew if it was changed where no hook tells: by people, or by optimizers that evaluate in their step (LBFGS)."""
        for owner in (self, *(owner for owner, _ in self.tied.values())):
            if any(owner._branch(name).stale() for name in owner.live):
                owner.write(owner.live)

    def _branch(self, name: str) -> SparseBranch:
        return cast(SparseBranch, self.branches[name])

    def _recall(self, y: Any) -> None:
        """See to it that the backward of ``y`` finds the weights of this forward, whatever is active by then."""
        tensor = next((t for t in _tensors(y) if t.requires_grad), None)
        if tensor is None:
            return
        # At the node, not the tensor: an in-place ReLU behind the layer replaces a view and its hooks.
        base = tensor._base if tensor._is_view() else None
        node = tensor.grad_fn if base is None or base.grad_fn is None else base.grad_fn
        if node is not None:
            owners = [self, *(owner for owner, _ in self.tied.values())]
            node.register_prehook(Recall([(owner, owner.live) for owner in owners]))

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)
        if self.live:  # another dtype rounds base + δ otherwise than it rounds their rounded sum
            self.write(self.live)
        return result

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _empty_adapted, (self.base_class, self.live_attributes), self.__dict__


def adaptable(layer: nn.Module) -> bool:
    """Whether a low-rank branch can stand beside this layer: a linear layer, or transformers' Conv1D."""
    return isinstance(layer, nn.Linear) or _is_conv1d(getattr(layer, "base_class", type(layer)))


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


def put_branch(layer: nn.Module, name: str, branch: nn.Module, site: Site) -> AdaptedLayer:
    """Give ``layer`` a branch; the first one replaces its class by an adapted subclass.

    Args:
        layer: any module.
        name: of the adapter.
        branch: a :class:`SparseBranch` lies in the layer's weights, a :class:`LowRankBranch` is added to its output; any other
            module is only carried, and hooks do its work.
        site: what the adapters of the model share.

    Raises:
        ValueError: the layer uses the name of an attribute that an adapted layer needs.
    """
    adapted = _adapt(layer, site, live=isinstance(branch, SparseBranch))
    adapted.branches[name] = branch
    site.live_factors += isinstance(branch, SparseBranch) and adapted.fused_as is None
    return adapted


def tie(layer: nn.Module, key: str, owner: AdaptedLayer, owner_key: str, site: Site) -> None:
    """Send the gradient of ``layer``'s attribute ``key`` to the branches of ``owner``, to whose tensor it is tied."""
    _adapt(layer, site, live=True).tied[key] = (owner, owner_key)


def take_branch(layer: AdaptedLayer, name: str) -> None:
    """Undo :func:`put_branch`; once the last branch has gone, the layer has its old class again.

    An adapter that is merged stays in the weights for good. Copies of the weights from before that merge would undo it too, so
    they are given up.
    """
    sparse = isinstance(layer.branches[name], SparseBranch)
    if name in layer.merged:
        for earlier in list(layer.merged)[: list(layer.merged).index(name)]:
            if not isinstance(layer.branches[earlier], SparseBranch):
                layer.merged[earlier] = None
        del layer.merged[name]
    if sparse:
        layer.site.live_factors -= layer.fused_as is None
    del layer.branches[name]
    release(layer)


def release(layer: AdaptedLayer) -> None:
    """Give the layer its old class back if nothing uses the adapted one any more."""
    for key, (owner, owner_key) in list(layer.tied.items()):
        branches = getattr(owner, "branches", {}).values()
        if not any(isinstance(branch, SparseBranch) and owner_key in branch.index for branch in branches):
            del layer.tied[key]
    if not layer.branches and not layer.tied:
        for attribute in _ATTRIBUTES:
            delattr(layer, attribute)
        layer.__class__ = layer.base_class


_ATTRIBUTES = ("branches", "merged", "site", "live", "tied")  # of an adapted layer, beside what its class had


def _adapt(layer: nn.Module, site: Site, live: bool) -> AdaptedLayer:
    if not isinstance(layer, AdaptedLayer):
        if taken := [name for name in _ATTRIBUTES if hasattr(layer, name)]:
            raise ValueError(
                f"attach: {type(layer).__name__} has an attribute {taken[0]!r}, and an adapted layer needs that name for itself; "
                "leave the layer out by targets=, or rename the attribute."
            )
        layer.__class__ = _adapted_class(type(layer), ())
        assert isinstance(layer, AdaptedLayer)
        layer.site = site
        layer.branches = nn.ModuleDict()
        layer.merged = {}
        layer.live = ()
        layer.tied = {}
    if live and not layer.live_attributes:
        layer.__class__ = _adapted_class(layer.base_class, tuple(sorted(layer._parameters)))
    return layer


_classes: dict[Any, Any] = {}  # by base class and live attributes


def _adapted_class(base: Any, live_attributes: tuple[str, ...]) -> Any:
    key = (base, live_attributes)
    if key not in _classes:
        fields: dict[str, Any] = {"base_class": base, "fused_as": _fusable(base), "live_attributes": live_attributes}
        fields.update({name: _live_attribute(name) for name in live_attributes})
        if fields["fused_as"] is None:
            fields["forward"] = _with_signature(base)
        _classes[key] = type(f"Adapted{base.__name__}", (AdaptedLayer, base), {**fields, "__module__": __name__})
    return _classes[key]


def _live_attribute(name: str) -> property:
    def get(layer: AdaptedLayer) -> torch.Tensor | None:
        parameter = layer._parameters[name]
        trained = layer.trained(name)
        if parameter is None or not trained:
            return parameter
        deltas, indices = zip(*((branch.delta(key), branch.index[key]) for branch, key in trained), strict=True)
        if len(trained) == 1:
            return live_values(parameter, deltas[0], indices[0])
        return live_values(parameter, torch.cat(deltas), torch.cat(indices))

    return property(get)


def _with_signature(base: Any) -> Any:
    """AdaptedLayer.forward with the base's signature, which some callers inspect (transformers' generate does)."""

    def forward(self: AdaptedLayer, *args: Any, **kwargs: Any) -> Any:
        return AdaptedLayer.forward(self, *args, **kwargs)

    forward.__signature__ = inspect.signature(base.forward)  # type: ignore[attr-defined]
    forward.__doc__ = base.forward.__doc__
    return forward


def _empty_adapted(base: type[nn.Module], live_attributes: tuple[str, ...]) -> nn.Module:
    cls = _adapted_class(base, live_attributes)
    return cast(nn.Module, cls.__new__(cls))


def _fusable(base: type[Any]) -> str | None:
    if issubclass(base, nn.Linear) and base.forward is nn.Linear.forward:
        return "linear"
    if unpacker_of(base) is not None:
        return "packed"
    if issubclass(base, nn.Embedding) and base.forward is nn.Embedding.forward:
        return "embedding"
    return "conv1d" if _is_conv1d(base) else None


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The layer's input, however it was given."""
    return args[0] if args else next(iter(kwargs.values()))


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _tensors(item)


def _is_conv1d(base: type) -> bool:
    """transformers' Conv1D: y = x W + b with W (K, N). Known by its name, so that this package needs no transformers."""
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
