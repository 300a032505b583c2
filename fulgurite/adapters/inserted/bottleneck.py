"""A bottleneck behind a layer: h' = h + gelu(h W_down + b_down) W_up + b_up (arXiv 1902.00751)."""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["BottleneckBranch", "put_behind"]


class BottleneckBranch(nn.Module):
    """W_up gelu(W_down h + b_down) + b_up; down from N(0, 0.01²), up zero: float32."""

    def __init__(self, features: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(features, width, device=device)
        self.up = nn.Linear(width, features, device=device)
        nn.init.normal_(self.down.weight, std=0.01)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """(…, N) -> (…, N), what is added to h."""
        x = h if torch.is_autocast_enabled(h.device.type) else h.to(self.down.weight.dtype)
        return cast(torch.Tensor, self.up(F.gelu(self.down(x), approximate="tanh"))).to(h.dtype)


def put_behind(branch: nn.Module, name: str, layer: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    return output + branch(output) if name in layer.site.active else output
