"""The trainable part beside one linear layer: A (r, K), perhaps a gate (r,), B (N, r), and which of its ranks are live.

Live ranks stand in front: retiring a rank moves it behind the live ones, and the forward takes the leading slice.
Parameters keep their size while something else (DDP, say) may hold them; :meth:`LowRankBranch.shrink` makes them smaller.

Beside the stacked weights of E experts every tensor has E in front, and each expert retires ranks of its own. The forward then
takes as many ranks as the expert with the most has; the retired ranks of the others are zeros, and stay zeros.
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
        experts: E, or None beside a linear layer.

    Attributes:
        lora_a: (r, K) float32, Kaiming-uniform with a = √5 as in LoRA; (E, r, K) for experts.
        lora_b: (N, r) float32, zeros: the model starts as the base; (E, N, r) for experts.
        gate: (r,) float32, (E, r) for experts, or None for plain LoRA.
        lives: of each expert (of a linear layer: one number), how many leading ranks take part; the others are retired.
        zero_for: per rank, optimizer steps for which its gate has been seen at zero; expert after expert.
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
        experts: int | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.experts = in_features, out_features, experts
        self.max_rank, self.scaling, self.dropout = rank, alpha / rank, dropout
        lead = () if experts is None else (experts,)
        self.lora_a = nn.Parameter(torch.empty(*lead, rank, in_features, device=device, dtype=torch.float32))
        self.lora_b = nn.Parameter(torch.zeros(*lead, out_features, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_a.data.view(-1, in_features), a=math.sqrt(5))
        self.register_parameter("gate", None)
        if gate is not None:
            draw = torch.ones if gate == "ones" else torch.randn
            first = draw(*lead, rank, device=device, dtype=torch.float32)
            self.gate = nn.Parameter(first.abs() if gate == "absnormal" else first)
        self.lives = [rank] * (experts or 1)
        self.zero_for = [0] * rank * (experts or 1)
        self._clock = clock
        self.register_load_state_dict_pre_hook(_resize_to)

    @property
    def live(self) -> int:
        """Number of leading ranks that the forward takes: those of the expert that has most left."""
        return max(self.lives)

    def factors(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """A, gate and B of the k live ranks: (k, K), (k,) or None, (N, k); of experts with E in front."""
        k = self.live
        if k == self._width():
            return self.lora_a, self.gate, self.lora_b
        return self.lora_a[..., :k, :], None if self.gate is None else self.gate[..., :k], self.lora_b[..., :k]

    @torch.no_grad()
    def delta(self, expert: int | None = None) -> torch.Tensor:
        """ΔW = s · B diag(g) A, (N, K), in float64, so that merging rounds once (float32 on devices without it).

        Args:
            expert: which one, of a branch of experts.
        """
        wide = torch.float32 if self.lora_a.device.type == "mps" else torch.float64
        factors = self.factors() if expert is None else [None if f is None else f[expert] for f in self.factors()]
        a, gate, b = (None if factor is None else factor.to(wide) for factor in factors)
        assert a is not None and b is not None
        return (b if gate is None else b * gate) @ a * self.scaling

    def live_ranks(self) -> list[int]:
        """The places of the live ranks in ``zero_for``."""
        width = self._width()
        return [row * width + rank for row, live in enumerate(self.lives) for rank in range(live)]

    @torch.no_grad()
    def retire(self, dead: list[int], optimizer: torch.optim.Optimizer | None) -> None:
        """Stop using the live ranks at these places of ``zero_for``; they move behind the ones that stay, with optimizer state.

        Retired ranks are zeroed, their gates and moments too, so that no optimizer revives or drags them.
        """
        gone, width, counts = set(dead), self._width(), self.zero_for
        for row in sorted({place // width for place in gone}):
            start, live = row * width, self.lives[row]
            keep = [rank for rank in range(live) if start + rank not in gone]
            order = keep + [rank for rank in range(live) if start + rank in gone] + list(range(live, width))
            index = torch.tensor(order, device=self.lora_a.device)
            for parameter, dim in self._by_rank():
                for tensor in _followers(parameter, optimizer):
                    part = tensor if self.experts is None else tensor[row]
                    moved = part.index_select(dim, index)
                    moved.narrow(dim, len(keep), width - len(keep)).zero_()
                    part.copy_(moved)
            counts[start : start + width] = [counts[start + rank] for rank in order]
            self.lives[row] = len(keep)

    @torch.no_grad()
    def shrink(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Cut parameters and optimizer state down to the live ranks. Not for use under DDP, which holds the old sizes."""
        width, live = self._width(), self.live
        if live == width:
            return
        for name, dim in _RANKS:
            old = getattr(self, name)
            if old is None:
                continue
            # A new Parameter, not the old one resized: an older graph may still hold the old one's gradient accumulator.
            new = nn.Parameter(old.detach().narrow(dim, 0, live).clone(), requires_grad=old.requires_grad)
            setattr(self, name, new)
            if optimizer is not None:
                _replace(optimizer, old, new, dim)
        starts = range(0, len(self.zero_for), width)
        self.zero_for = [count for start in starts for count in self.zero_for[start : start + live]]

    def get_extra_state(self) -> torch.Tensor:
        """int64: optimizer steps, live ranks (of each expert), then ``zero_for``."""
        return torch.tensor([self._clock.steps, *self.lives, *self.zero_for], dtype=torch.int64, device="cpu")

    def set_extra_state(self, state: torch.Tensor) -> None:
        """Inverse of :meth:`get_extra_state`.

        Raises:
            ValueError: a state that does not fit the loaded ranks.
        """
        rows, rank = len(self.lives), self._width()
        steps, *counts = (int(value) for value in state.tolist())
        lives, zero_for = counts[:rows], counts[rows:]
        if not all(0 <= live <= rank for live in lives) or len(zero_for) != rows * rank:
            most = max(lives, default=0)
            raise ValueError(
                f"LowRankBranch: the saved counters are of {most} live ranks of {len(zero_for)}, but {rows * rank} ranks were "
                "loaded; the file is damaged, or its tensors come from several adapters. Save the adapter again."
            )
        self._clock.steps, self.lives, self.zero_for = steps, lives, zero_for

    def extra_repr(self) -> str:
        gated = "gated" if self.gate is not None else "no gate"
        experts = "" if self.experts is None else f"{self.experts} experts, "
        return f"{experts}{self.in_features} -> {self.live} of {self.max_rank} -> {self.out_features}, {gated}"

    def _width(self) -> int:
        """Ranks that the parameters have room for."""
        return self.lora_a.shape[-2]

    def _by_rank(self) -> list[tuple[nn.Parameter, int]]:
        """Each parameter with the dimension that counts ranks."""
        return [(p, dim) for name, dim in _RANKS if (p := getattr(self, name)) is not None]


_RANKS = (("lora_a", -2), ("lora_b", -1), ("gate", -1))  # the dimension that counts ranks


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
    for name, dim in _RANKS:
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
        rank: ranks at the start, of all experts together.
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
