"""The trainable part beside one linear layer: A (r, K), perhaps a gate (r,), B (N, r), and which of its ranks are live.

Live ranks stand in front: retiring a rank moves it behind the live ones, and the forward takes the leading slice.
Parameters keep their size while something else (DDP, say) may hold them; :meth:`LowRankBranch.shrink` makes them smaller.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import nn

from fulgurite.adapters.layers.float32 import Float32Module

__all__ = ["Clock", "LowRankBranch", "RankRow"]


class Clock:
    """Optimizer steps that an adapter has seen; shared by its branches, so that it travels in their saved state."""

    def __init__(self) -> None:
        self.steps = 0


class LowRankBranch(Float32Module):
    """Low-rank branch of one layer; its parameters stay float32 when the model is cast.

    Args:
        in_features: K.
        out_features: N.
        rank: r.
        alpha: α; the branch is scaled by α/r.
        dropout: probability on the branch's input.
        gate: how the gates begin ("normal", "absnormal" or "ones"; see :class:`fulgurite.adapters.SoRA`); None for no gates.
        clock: shared by the branches of one adapter.
        device: of the parameters.

    Attributes:
        lora_a: (r, K) float32, Kaiming-uniform with a = √5 as in LoRA.
        lora_b: (N, r) float32, zeros: the model starts as the base.
        gate: (r,) float32, or None for plain LoRA.
        live: number of leading ranks that take part; the others are retired.
        zero_for: per rank, optimizer steps for which its gate has been seen at zero.
    """

    gate: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        alpha: float,
        dropout: float,
        gate: str | None,
        clock: Clock,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.max_rank, self.scaling, self.dropout = rank, alpha / rank, dropout
        self.lora_a = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(out_features, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))
        self.register_parameter("gate", None)
        if gate is not None:
            draw = torch.ones if gate == "ones" else torch.randn
            first = draw(rank, device=device, dtype=torch.float32)
            self.gate = nn.Parameter(first.abs() if gate == "absnormal" else first)
        self.live = rank
        self.zero_for = [0] * rank
        self._clock = clock
        self.register_load_state_dict_pre_hook(_resize_to)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """A, gate and B of the live ranks: (k, K), (k,) or None, (N, k)."""
        k = self.live
        if k == self.lora_a.shape[0]:
            return self.lora_a, self.gate, self.lora_b
        return self.lora_a[:k], None if self.gate is None else self.gate[:k], self.lora_b[:, :k]

    @torch.no_grad()
    def delta(self) -> torch.Tensor:
        """ΔW = s · B diag(g) A, (N, K), in float64, so that merging rounds once (float32 on devices without it)."""
        wide = torch.float32 if self.lora_a.device.type == "mps" else torch.float64
        a, gate, b = (None if factor is None else factor.to(wide) for factor in self.factors())
        assert a is not None and b is not None
        return (b if gate is None else b * gate) @ a * self.scaling

    @torch.no_grad()
    def retire(self, dead: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Stop using the live ranks with these indices, and move them behind the ones that stay, with their optimizer state.

        Retired ranks are zeroed, their gates and moments too, so that no optimizer revives or drags them.
        """
        gone = set(dead)
        keep = [i for i in range(self.live) if i not in gone]
        order = keep + sorted(gone) + list(range(self.live, self.lora_a.shape[0]))
        index = torch.tensor(order, device=self.lora_a.device)
        for parameter, dim in self._by_rank():
            for tensor in _followers(parameter, optimizer):
                moved = tensor.index_select(dim, index)
                moved.narrow(dim, len(keep), len(order) - len(keep)).zero_()
                tensor.copy_(moved)
        self.zero_for = [self.zero_for[i] for i in order]
        self.live = len(keep)

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Cut parameters and optimizer state down to the live ranks. Not for use under DDP, which holds the old sizes."""
        if self.live == self.lora_a.shape[0]:
            return
        for name, dim in (("lora_a", 0), ("lora_b", 1), ("gate", 0)):
            old = getattr(self, name)
            if old is None:
                continue
            # A new Parameter, not the old one resized: an older graph may still hold the old one's gradient accumulator.
            new = nn.Parameter(old.detach().narrow(dim, 0, self.live).clone(), requires_grad=old.requires_grad)
            setattr(self, name, new)
            if optimizer is not None:
                _replace(optimizer, old, new, dim)
        self.zero_for = self.zero_for[: self.live]

    def get_extra_state(self) -> torch.Tensor:
        """int64: optimizer steps, live ranks, then ``zero_for``."""
        return torch.tensor([self._clock.steps, self.live, *self.zero_for], dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Inverse of :meth:`get_extra_state`.

        Raises:
            ValueError: a state that does not fit the loaded ranks.
        """
        steps, live, *zero_for = (int(value) for value in state.tolist())
        rank = self.lora_a.shape[0]
        if not 0 <= live <= rank or len(zero_for) != rank:
            raise ValueError(
                f"LowRankBranch: the saved counters are of {live} live ranks of {len(zero_for)}, but {rank} ranks were loaded; the "
                "file is damaged, or its tensors come from several adapters. Save the adapter again."
            )
        self._clock.steps, self.live, self.zero_for = steps, live, zero_for

    def extra_repr(self) -> str:
        gated = "gated" if self.gate is not None else "no gate"
        return f"{self.in_features} -> {self.live} of {self.max_rank} -> {self.out_features}, {gated}"

    def _by_rank(self) -> list[tuple[nn.Parameter, int]]:
        """Each parameter with the dimension that counts ranks."""
        pairs = [(self.lora_a, 0), (self.lora_b, 1)]
        return pairs if self.gate is None else [*pairs, (self.gate, 0)]


def _replace(optimizer: torch.optim.Optimizer, old: nn.Parameter, new: nn.Parameter, dim: int) -> None:
    """Let the optimizer go on with ``new``, its state cut to the leading part of ``old``'s along ``dim``."""
    for group in optimizer.param_groups:
        group["params"] = [new if p is old else p for p in group["params"]]
    if old in optimizer.state:
        state = optimizer.state.pop(old)
        optimizer.state[new] = {
            key: value.narrow(dim, 0, new.shape[dim]).clone()
            if isinstance(value, torch.Tensor) and value.shape == old.shape
            else value
            for key, value in state.items()
        }


def _followers(parameter: nn.Parameter, optimizer: torch.optim.Optimizer | None) -> list[torch.Tensor]:
    """The parameter, its gradient, and the optimizer's tensors of the same shape."""
    tensors = [parameter.data]
    if parameter.grad is not None:
        tensors.append(parameter.grad)
    if optimizer is not None:
        tensors += [
            value
            for value in optimizer.state.get(parameter, {}).values()
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape
        ]
    return tensors


def _resize_to(branch: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Before loading: give the parameters the size that was saved, which is smaller after ranks were cut."""
    assert isinstance(branch, LowRankBranch)
    for name, dim in (("lora_a", 0), ("lora_b", 1), ("gate", 0)):
        parameter, saved = getattr(branch, name), state_dict.get(prefix + name)
        if parameter is None or saved is None or saved.dim() != parameter.dim():
            continue
        shape = list(parameter.shape)
        shape[dim] = saved.shape[dim]
        if saved.shape[dim] <= branch.max_rank and list(saved.shape) == shape and saved.shape != parameter.shape:
            parameter.grad = None
            parameter.data = parameter.data.new_zeros(shape)


class RankRow(NamedTuple):
    """One adapted module.

    Attributes:
        module: its qualified name.
        rank: ranks at the start.
        live: ranks that are not retired.
        nonzero: live ranks whose gate is not zero.
        parameters: scalars at the start.
        parameters_kept: scalars of the ``nonzero`` ranks.
    """

    module: str
    rank: int
    live: int
    nonzero: int
    parameters: int
    parameters_kept: int
