"""The trained scalars of one layer's own tensors: δ (n,) per tensor, their positions, and the base values under them.

Live weights: the tensor holds base + δ, rounded once to its dtype, and the n base values are kept here. The forward costs nothing
extra and undoing is exact. All writes go through ``tensor.data``, which autograd does not see: a weight that it has saved may be
written between the forward and the backward, because :class:`fulgurite.adapters.layers.layer.AdaptedLayer` puts the values of
the forward back before the backward reads them.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.layers.float32 import Float32Module
from fulgurite.kernels import SparsePlan, plan_sparse_delta, write_live_

__all__ = ["SparseBranch", "positions_in", "refuse_sharded"]


class SparseBranch(Float32Module):
    """Sparse branch of one layer.

    Parameters are ``delta_<attribute>``, (n,) float32 (float64 where the tensor is), zeros: the model starts as the base.

    Args:
        layer: its qualified name.
        tensors: the layer's Parameters with trained scalars, by attribute.
        index: flat positions in each, (n,) int64, sorted.
        stores_positions: whether the extra state holds the positions; else it holds a hash of them only.

    Attributes:
        index: attribute of the layer ("weight", "bias", …) -> flat positions, (n,) int64, sorted.
        base: attribute -> the untouched values at these positions, (n,) in the tensor's dtype.
        shapes: attribute -> shape of the tensor.
    """

    def __init__(
        self,
        layer: str,
        tensors: dict[str, nn.Parameter],
        index: dict[str, torch.Tensor],
        stores_positions: bool,
    ) -> None:
        super().__init__()
        self.layer, self.stores_positions = layer, stores_positions
        # Not buffers: DDP would broadcast them at every forward.
        self.index: dict[str, torch.Tensor] = {}
        self.base: dict[str, torch.Tensor] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._plans: dict[str, SparsePlan] = {}
        self._written: dict[str, tuple[weakref.ref[torch.Tensor], int] | None] = {}
        for key, tensor in tensors.items():
            self.index[key] = index[key].to(tensor.device)
            self.base[key] = tensor.data.view(-1)[self.index[key]]
            self.shapes[key] = tuple(tensor.shape)
            wide = torch.promote_types(tensor.dtype, torch.float32)
            delta = torch.zeros(len(index[key]), dtype=wide, device=tensor.device)
            self.register_parameter(f"delta_{key}", nn.Parameter(delta))
        self.register_load_state_dict_pre_hook(_same_positions)

    def delta(self, key: str) -> nn.Parameter:
        """δ of one tensor, (n,)."""
        parameter = self._parameters[f"delta_{key}"]
        assert parameter is not None
        return parameter

    def plan(self, key: str, shape: tuple[int, ...]) -> SparsePlan:
        """The kernel's plan for a matrix; made once per device."""
        if key not in self._plans:
            self._plans[key] = plan_sparse_delta(self.index[key], shape)
        return self._plans[key]

    def write(self, tensors: Mapping[str, nn.Parameter | None], live: bool, alone: bool = True) -> None:
        """Put base + δ (or base) into the tensors; ``alone`` if no other adapter's δ is in them."""
        for key, index in self.index.items():
            tensor = self._whole(tensors, key)
            base = self.base[key].to(tensor.dtype) if alone or not live else tensor.data.view(-1)[index]
            write_live_(tensor, index, base, self.delta(key).data if live else None)
            self._written[key] = weakref.ref(self.delta(key)), self.delta(key)._version

    def stale(self) -> bool:
        """Whether the weights hold an older δ than the branch.

        δ may have been changed, as far as its version counter tells (fused optimizer steps do not move it), or be another tensor:
        torch.func.functional_call puts one in its place for a call.
        """
        return any(
            written is None or written[0]() is not self.delta(key) or written[1] != self.delta(key)._version
            for key, written in self._written.items()
        )

    @torch.no_grad()
    def read_base(self, tensors: Mapping[str, nn.Parameter | None]) -> None:
        """Take the base values from the tensors as they are; no other adapter's δ may be in them.

        Where this branch's δ came along with the tensors (a weight average, DDP and a target network copy whole models), the
        tensors hold base + δ already: where a value is the kept base plus δ to rounding, the kept base stays.
        """
        for key, index in self.index.items():
            tensor = self._whole(tensors, key)
            # The first forward may be a validation's; these values are kept for longer.
            with torch.inference_mode(False):
                values, delta = tensor.data.view(-1)[index], self.delta(key).data
                kept = self.base[key].to(values.dtype)
                live = (kept.to(delta.dtype) + delta).to(values.dtype)
                came = (delta != 0) & torch.isclose(values, live, rtol=4 * torch.finfo(values.dtype).eps, atol=1e-7)
                self.base[key] = torch.where(came, kept, values)

    @torch.no_grad()
    def rebase(self, tensors: Mapping[str, nn.Parameter | None]) -> None:
        """From here on the values that the tensors hold now are the base."""
        for key, index in self.index.items():
            self.base[key] = self._whole(tensors, key).data.view(-1)[index]

    def _whole(self, tensors: Mapping[str, nn.Parameter | None], key: str) -> nn.Parameter:
        tensor = tensors[key]
        assert tensor is not None
        if type(tensor) is not nn.Parameter:
            refuse_sharded(f"{self.layer}.{key}", tensor)
        return tensor

    def fingerprint(self) -> int:
        """A hash of the positions of all tensors, 63 bits."""
        combined = 0
        for key, index in self.index.items():
            combined ^= _fingerprint(f"{self.layer}.{key}", self.shapes[key], index)
        return combined

    def get_extra_state(self) -> torch.Tensor:
        """int64: hash of the positions; where they are stored, each tensor's number of them and all of them, tensors by name."""
        state = [torch.tensor([self.fingerprint()], device="cpu")]
        if self.stores_positions:
            ordered = [self.index[key].cpu() for key in sorted(self.index)]
            state += [torch.tensor([len(index) for index in ordered], device="cpu"), *ordered]
        return torch.cat(state)

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Nothing to set: the positions are fixed, and were compared before loading."""

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self.base = {key: fn(value) for key, value in self.base.items()}
        moved = {key: fn(value) for key, value in self.index.items()}
        if any(moved[key].device != self.index[key].device for key in moved):
            self._plans = {}
        self.index = {
            key: value if value.device != self.index[key].device else self.index[key] for key, value in moved.items()
        }
        return self

    def __getstate__(self) -> dict[str, Any]:
        # A plan belongs to one index tensor, and what was written to one δ; copies have their own.
        return {**self.__dict__, "_plans": {}, "_written": dict.fromkeys(self._written)}

    def extra_repr(self) -> str:
        return ", ".join(f"{key}: {len(index):,} of {list(self.shapes[key])}" for key, index in self.index.items())


def positions_in(state_dict: Mapping[str, Any], prefix: str, name: str) -> dict[str, torch.Tensor] | None:
    """The positions that a model's state dict holds for the adapter ``name``, by parameter name; None where it holds hashes only.

    Args:
        state_dict: of an adapted model or a module around it.
        prefix: of the model's keys in it, such as "network.".
        name: the adapter's.
    """
    found: dict[str, torch.Tensor] = {}
    tail = f"branches.{name}._extra_state"
    for key, state in state_dict.items():
        start = len(key) - len(tail)
        if not key.endswith(tail) or not key.startswith(prefix) or (start and key[start - 1] != "."):
            continue
        layer = key[len(prefix) : start].rstrip(".")
        deltas = sorted(other for other in state_dict if other.startswith(key[: -len("_extra_state")] + "delta_"))
        counts = state[1 : 1 + len(deltas)].tolist()
        if len(counts) < len(deltas):
            return None
        for delta, part in zip(deltas, state[1 + len(deltas) :].split(counts), strict=True):
            attribute = delta.rpartition(".delta_")[2]
            found[f"{layer}.{attribute}" if layer else attribute] = part
    return found or None


def refuse_sharded(name: str, parameter: torch.Tensor) -> None:
    """Raise a ValueError if FSDP has cut the parameter into pieces, in which flat positions mean something else."""
    kind = type(parameter).__name__
    if kind in ("DTensor", "FlatParameter") or hasattr(parameter, "device_mesh"):
        raise ValueError(
            f"APET: {name} is a {kind}, sharded by FSDP; positions of a whole tensor do not exist there. Train with DDP or one "
            "device, or use LoRA under FSDP."
        )


def _fingerprint(name: str, shape: tuple[int, ...], index: torch.Tensor) -> int:
    """A hash of where a tensor is trained, 63 bits."""
    digest = hashlib.blake2b(f"{name} {tuple(shape)} ".encode(), digest_size=8)
    digest.update(index.cpu().to(torch.int64).numpy().astype("<i8").tobytes())
    return int.from_bytes(digest.digest(), "little") >> 1


def _same_positions(branch: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: δ means nothing at other positions."""
    assert isinstance(branch, SparseBranch)
    saved = state_dict.get(prefix + "_extra_state")
    if isinstance(saved, torch.Tensor) and int(saved[0]) != branch.fingerprint():
        raise ValueError(
            f"APET: the saved values of {branch.layer or 'the model'} belong to other positions than this adapter's: budget, "
            "selection, seed, targets, mask or the base was changed since. Attach with the configuration that was trained."
        )
