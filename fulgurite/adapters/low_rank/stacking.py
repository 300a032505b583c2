"""Several low-rank adapters on one base as a single one, whose rank at each layer is the sum of theirs.

s₁·B₁ diag(g₁) A₁ + s₂·B₂ diag(g₂) A₂ = [B₁ B₂] [s₁·diag(g₁) A₁ ; s₂·diag(g₂) A₂]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fulgurite.adapters.attaching import attach
from fulgurite.adapters.config import LoRA
from fulgurite.adapters.handle import Adapter

__all__ = ["Factors", "attach_sum"]

# By layer name: A (r, K) with scale and gates in it, and B (N, r); by name of a Parameter of experts both with E in front.
Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


@torch.no_grad()
def attach_sum(model: nn.Module, parts: Sequence[Factors], name: str = "default") -> Adapter:
    """Attach one LoRA that computes what several low-rank adapters compute together.

    Args:
        model: their base.
        parts: what :meth:`fulgurite.adapters.Adapter.low_rank_factors` gave of each.
        name: of the new adapter.

    Raises:
        ValueError: a layer that the model does not have, or that is narrower than the ranks together.
    """
    layers = {layer for part in parts for layer in part}
    joined = {layer: _join([part[layer] for part in parts if layer in part]) for layer in sorted(layers)}
    rank = max(1, max(a.shape[-2] for a, _ in joined.values()))
    targets = "|".join(re.escape(layer) for layer in joined)
    adapter = attach(model, LoRA(rank=rank, alpha=float(rank), targets=targets), name=name, check_forward=False)
    if left := sorted(set(joined) - set(adapter.branches)):
        adapter.detach()
        raise ValueError(f"attach: {left[0]} is no layer of {type(model).__name__} that carries low-rank branches.")
    for layer, branch in adapter.branches.items():
        a, b = joined[layer]
        branch.lora_a.zero_()
        branch.lora_b.zero_()
        branch.lora_a[..., : a.shape[-2], :].copy_(a)
        branch.lora_b[..., : a.shape[-2]].copy_(b)
    return adapter


def _join(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([a for a, _ in pairs], dim=-2), torch.cat([b for _, b in pairs], dim=-1)
