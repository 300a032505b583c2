"""What the adapters of one model share: which are active, and, for sparse ones, whose δ is in the weights at every moment.

Outside of a backward the weights hold what is active. A backward must see the weights of its forward: :class:`Recall` puts them
back layer by layer, and the engine's callback brings the active ones in again when the backward has ended.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from fulgurite.adapters.handle import Adapter
    from fulgurite.adapters.layers.layer import AdaptedLayer

__all__ = ["Recall", "Site"]


class Site:
    """What the adapters of one model share: who is attached, who is active, and what attaching has to undo.

    Attributes:
        live_factors: number of sparse branches in layers without an operator of their own, such as norms, whose live weights
            autograd may keep as factors of other layers' inputs.
    """

    def __init__(self) -> None:
        self.live_factors = 0
        self.adapters: dict[str, Adapter] = {}
        self.active: tuple[str, ...] = ()
        self.required_grad: dict[str, bool] = {}
        self.load_hooks: list[Any] = []

    @contextmanager
    def using(self, names: tuple[str, ...]) -> Iterator[None]:
        """Within the block exactly these adapters are active."""
        before = self.active
        self.activate(names)
        try:
            yield
        finally:
            self.activate(before)

    def activate(self, names: tuple[str, ...]) -> None:
        """From now on exactly these adapters are active; sparse ones are written into the weights, or out of them."""
        self.active = names
        for adapter in self.adapters.values():
            adapter.settle()

    def checkpoint_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """``context_fn`` for torch.utils.checkpoint: recompute with the adapters that were active in the forward."""
        return nullcontext(), self._recomputing(self.active)

    @contextmanager
    def _recomputing(self, names: tuple[str, ...]) -> Iterator[None]:
        """As :meth:`using` inside a backward, which may have put single layers into another state than the active adapters'."""
        layers = [layer for adapter in self.adapters.values() for layer in adapter.live_layers]
        held = [(layer, layer.live) for layer in layers]
        before = self.active
        self.activate(names)
        try:
            yield
        finally:
            self.active = before
            for layer, live in held:
                if layer.live != live:
                    layer.write(live)


class Recall:
    """Hook on the node that made a layer's output: before its backward, put the sparse adapters of its forward into the weights."""

    def __init__(self, states: list[tuple[AdaptedLayer, tuple[str, ...]]]) -> None:
        self.states = states

    def __call__(self, gradients: tuple[torch.Tensor, ...]) -> None:
        for layer, names in self.states:
            if layer.live != names:
                layer.write(names)
                torch.autograd.Variable._execution_engine.queue_callback(functools.partial(_settle, layer))


def _settle(layer: AdaptedLayer) -> None:
    if layer.live != layer.wanted():
        layer.write(layer.wanted())
