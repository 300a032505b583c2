"""A bottleneck behind a layer: h' = h + gelu(h W_down + b_down) W_up + b_up (arXiv 1902.00751).

It stands behind the output layers of attention and feed-forward in each block. W_up and b_up start at zero, so that the model
starts as the base.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters.layers.float32 import Float32Module

__all__ = ["BottleneckBranch", "put_behind"]


class BottleneckBranch(Float32Module):
    """What is added to a layer's output h: gelu(h W_down + b_down) W_up + b_up.

    Parameters are float32, also when the model is cast; W_down is drawn from N(0, 0.01²), everything else is zero.

    Args:
        features: N, the size of h.
        width: of the hidden layer.
        device: of the parameters.
    """

    def __init__(self, features: int, width: int, device: torch.device) -> None:
        super().__init__()
        self.down = nn.Linear(features, width, device=device, dtype=torch.float32)
        self.up = nn.Linear(width, features, device=device, dtype=torch.float32)
        nn.init.normal_(self.down.weight, std=0.01)
        for parameter in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(parameter)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """h (…, N) -> (…, N), what is added to it, in its dtype."""
        x = h if torch.is_autocast_enabled(h.device.type) else h.to(self.down.weight.dtype)
        return cast(torch.Tensor, self.up(F.gelu(self.down(x), approximate="tanh"))).to(h.dtype)


def put_behind(branch: nn.Module, name: str, layer: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    """Forward hook of a layer: its output with the bottleneck's added, if the adapter is active.

    Args:
        branch: the bottleneck.
        name: of the adapter.
        layer: the adapted layer.
        args: its inputs.
        output: h, (…, N).
    """
    return output + branch(output) if name in layer.site.active else output
