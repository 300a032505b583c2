"""Small models of the tests."""

from __future__ import annotations

import copy

import torch
from torch import nn


class Toy(nn.Module):
    """Two repeated blocks of two linears and a head outside of them."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(width, 2 * width), "down": nn.Linear(2 * width, width)}) for _ in range(2)
        )
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + block["down"](torch.tanh(block["up"](x)))
        return self.head(x)


def wake(adapter, seed: int = 0, dead: float = 0.4) -> None:
    """Give B values, as after some training, and set a share of the gates to zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for branch in adapter.branches.values():
            branch.lora_b.copy_(torch.randn(branch.lora_b.shape, generator=g) * 0.02)
            if branch.gate is not None:
                branch.gate[torch.rand(branch.gate.shape, generator=g) < dead] = 0


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference relative to the largest entry of ``b``."""
    return float((a - b).detach().abs().max() / b.detach().abs().max())


class Mixed(nn.Module):
    """One tensor of each kind: embedding tied to the head, LayerNorm, linear, convolution, attention, a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.scale = nn.Parameter(torch.randn(8))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.convolution = nn.Conv1d(8, 8, 3, padding=1)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.out = nn.Linear(8, 11)
        self.out.weight = self.embedding.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.embedding(ids) * self.scale)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.convolution(x.transpose(1, 2)).transpose(1, 2)
        return self.out(x + self.down(torch.tanh(self.up(x))))


def move(adapter, scale: float = 0.05, seed: int = 0) -> None:
    """Give δ values, as after some training."""
    g = torch.Generator().manual_seed(seed)
    for delta in adapter.deltas.values():
        delta.data.copy_(torch.randn(delta.shape, generator=g) * scale)
    adapter.sync()


def tuned(base: nn.Module, adapter) -> nn.Module:
    """The base with δ added to plain parameters: what autograd and the optimizer are compared with."""
    twin = copy.deepcopy(base)
    parameters = dict(twin.named_parameters())
    for name, index in adapter.positions.items():
        flat = parameters[name].data.view(-1)
        flat[index] = (flat[index].to(adapter.deltas[name].dtype) + adapter.deltas[name].detach()).to(flat.dtype)
    return twin


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "branches." not in name}


def same_bits(model: nn.Module, saved: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(p, saved[name]) for name, p in model.named_parameters() if "branches." not in name)
