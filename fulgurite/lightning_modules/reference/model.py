"""The reference model that preferences are compared with: the base as the run found it, or another model.

With an adapter the base is the network itself with the adapter switched off; without one it is a frozen second copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import nn

from fulgurite.adapters import Adapter

__all__ = ["Base", "Reference"]


class Base(Protocol):
    """The module whose base is the reference."""

    adapter: Adapter | None
    dtype_name: str

    def second_copy(self, name: str | None = None) -> nn.Module:
        """A frozen copy of the base as the run finds it; with a hub id or folder, of that model in its place."""


class Reference:
    """Gives the reference network whenever its log-probabilities are needed.

    Args:
        base: the module that trains.
        model: hub id or folder of another reference; None takes the base.
    """

    def __init__(self, base: Base, model: str | None = None) -> None:
        self.base, self.model = base, model
        self._copy: nn.Module | None = None  # this object is no module, so no checkpoint holds the copy

    @property
    def owner(self) -> str:
        """Class name of the module that trains, for messages."""
        return type(self.base).__name__

    @property
    def dtype_name(self) -> str:
        """The dtype of its weights."""
        return self.base.dtype_name

    def hold(self) -> None:
        """Load the second copy now, if the reference is one."""
        if self._copy is None and not self._below():
            self._copy = self.base.second_copy(self.model)

    @contextmanager
    def network(self, policy: nn.Module, keep: bool = True) -> Iterator[nn.Module]:
        """The network to ask within the block.

        Args:
            policy: the network that is trained; with an adapter the block sees it with the adapter switched off.
            keep: whether a second copy stays for the next time, or is dropped after the block.
        """
        adapter = self.base.adapter
        if self._copy is None and adapter is not None and self._below():
            with adapter.disabled():
                yield policy
        elif keep:
            self.hold()
            assert self._copy is not None
            yield self._copy
        else:
            yield self.base.second_copy(self.model) if self._copy is None else self._copy

    def _below(self) -> bool:
        """Whether the reference is the network without its adapter."""
        return self.model is None and self.base.adapter is not None
