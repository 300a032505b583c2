"""Parameter groups for optimizers: weight matrices are decayed; biases, norms and other vectors are not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

__all__ = ["decayed_groups", "network_groups"]


def decayed_groups(name: str, params: Iterable[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Up to two groups: ``name`` with the decay for matrices, ``<name>_no_decay`` for vectors; empty ones are left out.

    Args:
        name: of the groups.
        params: each Parameter once.
        lr: learning rate of both groups.
        weight_decay: of the matrices.
    """
    some = list(params)
    parts = [
        (name, [p for p in some if p.dim() >= 2], weight_decay),
        (f"{name}_no_decay", [p for p in some if p.dim() < 2], 0.0),
    ]
    return [{"name": n, "params": p, "lr": lr, "weight_decay": decay} for n, p, decay in parts if p]


def network_groups(network: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of what is trained of a network without an adapter, "matrices" with the decay and "no_decay"; one may be empty.

    Args:
        network: any.
        lr: learning rate of both groups.
        weight_decay: of the matrices.
    """
    params = [p for p in network.parameters() if p.requires_grad]
    matrices, rest = [p for p in params if p.dim() >= 2], [p for p in params if p.dim() < 2]
    groups = (("matrices", matrices, weight_decay), ("no_decay", rest, 0.0))
    return [{"name": n, "params": p, "lr": lr, "weight_decay": decay} for n, p, decay in groups]
