"""Sees to it that adapted layers are really called: PyTorch's fast path is kept away, and the first forward is watched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

__all__ = ["FirstForward", "keep_fast_path_away"]


def keep_fast_path_away(model: nn.Module, names: list[str]) -> list[Any]:
    """Put hooks on adapted layers inside of nn.TransformerEncoderLayer.

    In inference that class reads the weights of its layers without calling them, unless one of them has a hook.

    Args:
        model: the adapted model.
        names: of the adapted layers.

    Returns:
        The hooks' handles.
    """
    handles = []
    for name in names:
        if isinstance(model.get_submodule(name.rpartition(".")[0]), nn.TransformerEncoderLayer):
            handles.append(model.get_submodule(name).register_forward_pre_hook(_no_op))
    return handles


def _no_op(module: nn.Module, args: Any) -> None:
    return None


class FirstForward:
    """Hooks that watch the first forward of an adapted model and then remove themselves.

    A class and not a closure, so that models can be pickled.

    Args:
        model: the adapted model.
        layers: the adapted layers by name.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
        self.seen: set[str] = set()
        self.names = list(layers)
        self.handles: list[Any] = [
            layer.register_forward_pre_hook(partial(self.note, name)) for name, layer in layers.items()
        ]
        self.handles.append(model.register_forward_hook(self.judge))

    def note(self, name: str, module: nn.Module, args: Any) -> None:
        """A layer is being called."""
        self.seen.add(name)

    def judge(self, module: nn.Module, args: Any, output: Any) -> None:
        """The forward is over: was every layer called?"""
        self.remove()
        missed = [name for name in self.names if name not in self.seen]
        if missed:
            raise RuntimeError(
                f"attach: {len(missed)} adapted layers were not called in the first forward, the first is {missed[0]!r}: their "
                "module reads the weight without calling the layer, so the adapter has no effect there. Leave them out by "
                "targets=, or give check_forward=False if it is right that they did not run."
            )

    def remove(self) -> None:
        """Watch no more."""
        for handle in self.handles:
            handle.remove()
