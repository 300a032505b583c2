"""Weights and δ that come from outside: state dicts, and what others (DDP, say) write into the weights before the first forward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn

from fulgurite.adapters.config import APET
from fulgurite.adapters.layers.layer import AdaptedLayer
from fulgurite.adapters.layers.sparse_branch import SparseBranch, positions_in

__all__ = ["FirstLook", "other_positions", "read_base"]


def other_positions(
    adapter: str, config: APET, branches: Mapping[str, SparseBranch], state_dict: Mapping[str, Any], prefix: str
) -> dict[str, torch.Tensor] | None:
    """Compare the positions that a state dict's δ belongs to with those of the branches.

    Args:
        adapter: its name.
        config: what chose its positions.
        branches: of the adapter, by layer name.
        state_dict: of the model or a module around it.
        prefix: of the model's keys in it.

    Returns:
        None if the positions are the same. Else the positions of the state dict, by parameter name, which the adapter has to
        take over, because they were chosen by data that is not at hand.

    Raises:
        ValueError: other positions, although the same configuration should have given the same.
    """
    tail = f"branches.{adapter}._extra_state"
    saved = {
        key: int(value[0])
        for key, value in state_dict.items()
        if key.startswith(prefix) and f".{key}".endswith(f".{tail}")
    }
    mine = {
        f"{prefix}{name}.{tail}" if name else prefix + tail: branch.fingerprint() for name, branch in branches.items()
    }
    if all(mine.get(key) == value for key, value in saved.items()):
        return None
    positions = positions_in(state_dict, prefix, adapter) if config.selection == "gradient" else None
    if positions is not None:
        return positions
    raise ValueError(
        f"APET: the checkpoint was trained at other positions than this adapter's ({len(saved)} layers there, {len(mine)} "
        "here): budget, selection, seed, targets, mask or the base was changed since. Attach with the configuration that was "
        f"trained (here {config})."
    )


def read_base(adapter: str, layers: Mapping[str, AdaptedLayer], state_dict: Mapping[str, Any], prefix: str) -> None:
    """Before a state dict is loaded that brings weights: learn the base values under them.

    Weights that come with δ are live ones, with the δ of every sparse adapter that trains them. If they are this base with
    these δ, the kept base values stay as they are; else the base is what remains when δ is taken off (in float32, exact to
    the last rounding). Weights without δ are a base.

    Args:
        adapter: its name.
        layers: those with trained scalars, by name.
        state_dict: of the model or a module around it.
        prefix: of the model's keys in it.
    """
    for name, layer in layers.items():
        branch = cast(SparseBranch, layer.branches[adapter])
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
    """Before the first forward: weights that somebody wrote after attaching (DDP from rank 0, a loader) become the base.

    Args:
        adapter: name of the sparse adapter.
        model: the adapted model.
        layers: those with trained scalars.
    """

    def __init__(self, adapter: str, model: nn.Module, layers: Sequence[AdaptedLayer]) -> None:
        self.adapter, self.layers, self.open = adapter, layers, True
        self.handle = model.register_forward_pre_hook(self)

    def __call__(self, model: nn.Module, args: Any) -> None:
        if not torch.compiler.is_compiling():
            self.take()

    def take(self) -> None:
        """Read the base values once more, the first time that this is called; δ must not be in the weights yet."""
        if not self.open:
            return
        self.close()
        for layer in self.layers:
            if set(layer.live) <= {self.adapter}:
                cast(SparseBranch, layer.branches[self.adapter]).read_base(layer._parameters)

    def close(self) -> None:
        """Look no more."""
        self.open = False
        self.handle.remove()
