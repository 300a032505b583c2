"""The gated low-rank linear layer on a weight that is stored packed, in 4 or 8 bits (QLoRA, arXiv 2305.14314).

    y = x W̃ᵀ + bias + s · ((drop(x) Aᵀ) ⊙ g) Bᵀ,    W̃ = unpack(packed weight)

The gradients are those of :mod:`fulgurite.kernels.low_rank.gated_lora`. W̃ is unpacked in the forward and once more in the backward,
in the dtype of x, and neither keeps it; kept are x in its own dtype and t = x̃ Aᵀ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from fulgurite.kernels.low_rank.factors import scaled_b
from fulgurite.kernels.low_rank.gated_lora import GatedLoRALinear, draw_seed

__all__ = ["packed_lora_linear"]


def packed_lora_linear(
    x: torch.Tensor,
    unpack: Callable[[torch.dtype], torch.Tensor],
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """y = x W̃ᵀ + bias + scaling · ((drop(x) Aᵀ) ⊙ gate) Bᵀ; plain PyTorch on every device.

    Args:
        x: input, (…, K).
        unpack: gives the weight W̃ (N, K) in a dtype, on x's device; the weight gets no gradient.
        bias: (N,) or None; no gradient is asked of it usually.
        lora_a: down projection, (r, K). r may be 0: then this is F.linear.
        gate: (r,) or None for plain LoRA.
        lora_b: up projection, (N, r).
        scaling: α / r_max.
        dropout: probability of zeroing an element of x in the low-rank branch only, 0 ≤ dropout < 1.

    Returns:
        (…, N), in the dtype of ``x``; under autocast in autocast's dtype.
    """
    device = x.device.type
    if torch.is_autocast_enabled(device):
        x = x.to(torch.get_autocast_dtype(device))
    bias = None if bias is None else bias.to(x.dtype)
    flat = x.reshape(-1, x.shape[-1])
    with torch.autocast(device, enabled=False):
        if torch.compiler.is_compiling():  # the compiler redraws its own random numbers in the backward
            low = F.dropout(flat, dropout) @ lora_a.to(x.dtype).t()
            y = F.linear(flat, unpack(x.dtype), bias) + low @ scaled_b(lora_b, gate, scaling, x.dtype).t()
        else:
            seed = draw_seed() if dropout > 0 else 0
            y = GatedLoRALinear.apply(flat, unpack, bias, lora_a, gate, lora_b, float(scaling), float(dropout), seed)
    return y.reshape(*x.shape[:-1], lora_b.shape[0])
