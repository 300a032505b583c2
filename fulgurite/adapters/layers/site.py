"""What the adapters of one model share: which are attached, which are active, and whose δ is in the weights at this moment.

Outside of a backward the weights hold the δ of the active sparse adapters. A backward must see the weights of its forward:
:class:`Recall` puts them back layer by layer, and when the backward has ended a callback of the autograd engine brings in the
active adapters again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import nn

__all__ = ["Attached", "LiveLayer", "Recall", "Site", "site_of"]

_ATTRIBUTE = "_fulgurite_site"  # in the __dict__ of the model that carries adapters


class LiveLayer(Protocol):
    """A layer into whose weights sparse adapters write δ."""

    live: tuple[str, ...]

    def wanted(self) -> tuple[str, ...]:
        """The sparse adapters whose δ should be in the weights now."""

    def write(self, names: tuple[str, ...]) -> None:
        """Put exactly the δ of these adapters into the weights."""


class Attached(Protocol):
    """An adapter, as far as the others on the same model have to know it."""

    @property
    def live_layers(self) -> Sequence[LiveLayer]:
        """The layers whose weights it writes."""

    def settle(self) -> None:
        """Called when the active adapters have changed."""


class Site:
    """What the adapters of one model share.

    Attributes:
        adapters: the attached adapters by name, in the order of attaching.
        active: names of the adapters that the model computes with.
        required_grad: the base's requires_grad flags from before the first adapter; the last one to leave restores them.
        load_hooks: handles of the hooks on the model's ``load_state_dict``; the last adapter to leave removes them.
        live_factors: number of sparse branches in layers without an operator of their own, such as norms, whose live weights
            autograd may keep as factors of other layers' inputs.
    """

    def __init__(self) -> None:
        self.live_factors = 0
        self.adapters: dict[str, Attached] = {}
        self.active: tuple[str, ...] = ()
        self.required_grad: dict[str, bool] = {}
        self.load_hooks: list[Any] = []

    def open(self, model: nn.Module) -> None:
        """Before the first adapter: freeze the model and become its site."""
        self.required_grad = {key: p.requires_grad for key, p in model.named_parameters()}
        for p in model.parameters():
            p.requires_grad_(False)
        model.__dict__[_ATTRIBUTE] = self

    def close(self, model: nn.Module) -> None:
        """After the last adapter: give the model its requires_grad flags back, and leave it."""
        for key, p in model.named_parameters():
            p.requires_grad_(self.required_grad.get(key, p.requires_grad))
        for hook in self.load_hooks:
            hook.remove()
        del model.__dict__[_ATTRIBUTE]

    @contextmanager
    def using(self, names: tuple[str, ...]) -> Iterator[None]:
        """Within the block exactly these adapters are active; one that is attached in the block stays active after it."""
        before, known = self.active, dict(self.adapters)
        self.activate(names)
        try:
            yield
        finally:
            old = [name for name in before if self.adapters.get(name) is known.get(name)]
            new = [name for name, adapter in self.adapters.items() if known.get(name) is not adapter]
            self.activate((*old, *new))

    def activate(self, names: tuple[str, ...]) -> None:
        """From now on exactly these adapters are active; δ of sparse ones is written into the weights, or out of them."""
        self.active = names
        for adapter in self.adapters.values():
            adapter.settle()

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` for torch.utils.checkpoint: recompute with the adapters that were active in the forward."""
        return nullcontext(), _Recomputing(self, self.active)


class _Recomputing(AbstractContextManager[None]):
    """Makes adapters active for a recomputation in the backward; may be entered any number of times.

    torch enters it once for each backward through the graph (``retain_graph=True``), so that a generator would be used up. The
    backward may have put single layers into another state than that of the active adapters; leaving puts them back into it.
    """

    def __init__(self, site: Site, names: tuple[str, ...]) -> None:
        self.site, self.names = site, names
        self._before: list[tuple[tuple[str, ...], list[tuple[LiveLayer, tuple[str, ...]]]]] = []

    def __enter__(self) -> None:
        layers = [layer for adapter in self.site.adapters.values() for layer in adapter.live_layers]
        self._before.append((self.site.active, [(layer, layer.live) for layer in layers]))
        self.site.activate(self.names)

    def __exit__(self, *error: object) -> None:
        self.site.active, held = self._before.pop()
        for layer, live in held:
            if layer.live != live:
                layer.write(live)


def site_of(model: nn.Module) -> Site | None:
    """The site of a model that carries adapters; None of one that does not."""
    site = model.__dict__.get(_ATTRIBUTE)
    assert site is None or isinstance(site, Site)
    return site


class Recall:
    """Hook on the node that made a layer's output: before its backward it puts the sparse adapters of its forward back."""

    def __init__(self, states: Sequence[tuple[LiveLayer, tuple[str, ...]]]) -> None:
        self.states = states

    def __call__(self, gradients: tuple[torch.Tensor, ...]) -> None:
        for layer, names in self.states:
            if layer.live != names:
                layer.write(names)
                torch.autograd.Variable._execution_engine.queue_callback(functools.partial(_settle, layer))


def _settle(layer: LiveLayer) -> None:
    if layer.live != layer.wanted():
        layer.write(layer.wanted())
