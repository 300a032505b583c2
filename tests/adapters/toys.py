"""Small models of the tests."""

from __future__ import annotations

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
