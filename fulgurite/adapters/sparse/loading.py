"""Weights and δ that come from outside: state dicts, and writes of others (DDP) before the first forward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from fulgurite.adapters.layers.sparse_branch import SparseBranch, positions_in
from fulgurite.adapters.sparse.masks import positions_of

if TYPE_CHECKING:
    from fulgurite.adapters.sparse.adapter import SparseAdapter

__all__ = ["FirstLook", "prepare", "read_base"]


def prepare(adapter: SparseAdapter, state_dict: Mapping[str, Any], prefix: str) -> None:
    """See :meth:`fulgurite.adapters.SparseAdapter.prepare_load`."""
    tail = f"branches.{adapter.name}._extra_state"
    saved = {
        key: int(value[0])
        for key, value in state_dict.items()
        if key.startswith(prefix) and f".{key}".endswith(f".{tail}")
    }
    mine = {
        f"{prefix}{name}.{tail}" if name else prefix + tail: branch.fingerprint()
        for name, branch in adapter.branches.items()
    }
    if all(mine.get(key) == value for key, value in saved.items()):
        return
    positions = positions_in(state_dict, prefix, adapter.name) if adapter.config.selection == "gradient" else None
    if positions is not None:
        adapter.place(positions_of(positions, adapter.tensors))
        return
    raise ValueError(
        f"APET: the checkpoint was trained at other positions than this adapter's ({len(saved)} layers there, {len(mine)} "
        "here): budget, selection, seed, targets, mask or the base was changed since. Attach with the configuration that was "
        f"trained (here {adapter.config})."
    )


def read_base(adapter: SparseAdapter, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Before a state dict is loaded that brings weights: learn the base values under them.

    Weights that come with δ are live ones, with the δ of every sparse adapter that trains them. If they are this base with
    these δ, the kept base values stay as they are; else the base is what remains when they are taken off (in float32, exact to
    the last rounding). Weights without δ are a base.
    """
    for name, layer in adapter.layers.items():
        branch = cast(SparseBranch, layer.branches[adapter.name])
        stem = f"{prefix}{name}." if name else prefix
        for key, index in branch.index.items():
            weight, mine = state_dict.get(stem + key), layer._parameters[key]
            if not isinstance(weight, torch.Tensor) or mine is None or tuple(weight.shape) != branch.shapes[key]:
                continue
            values = weight.detach().reshape(-1)[index.to(weight.device)].to(index.device, mine.dtype)
            live = base = branch.base[key].to(mine.dtype)
            same = values == base  # switched off when it was saved
            remains = values.to(branch.delta(key).dtype)
            for other, branch_there in layer.branches.items():
                delta = state_dict.get(f"{stem}branches.{other}.delta_{key}")
                if not isinstance(branch_there, SparseBranch) or key not in branch_there.index:
                    continue
                if not isinstance(delta, torch.Tensor) or delta.shape != branch_there.index[key].shape:
                    continue
                delta = _at(index, branch_there.index[key], delta.detach().to(index.device, remains.dtype))
                same |= values == (base.to(delta.dtype) + delta).to(mine.dtype)  # that one alone was on
                live, remains = (live.to(delta.dtype) + delta).to(mine.dtype), remains - delta
            branch.base[key] = torch.where(same | (live == values), base, remains.to(mine.dtype))


def _at(wanted: torch.Tensor, index: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """δ (n,) of the sorted positions ``index`` at the positions ``wanted``, 0 where there is none."""
    if not index.numel():
        return delta.new_zeros(wanted.shape)
    place = torch.searchsorted(index, wanted).clamp(max=index.numel() - 1)
    return torch.where(index[place] == wanted, delta[place], 0.0)


class FirstLook:
    """Before the first forward: weights that somebody wrote after attaching (DDP from rank 0, a loader) become the base."""

    def __init__(self, adapter: SparseAdapter) -> None:
        self.adapter = adapter
        self.handle = adapter.model.register_forward_pre_hook(self)

    def __call__(self, model: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self.adapter.look()

    def take(self) -> None:
        """Read the base values once more. Called before anything else is written: δ is not in the weights yet."""
        self.handle.remove()
        for layer in self.adapter.live_layers:
            if set(layer.live) <= {self.adapter.name}:
                cast(SparseBranch, layer.branches[self.adapter.name]).read_base(layer._parameters)
