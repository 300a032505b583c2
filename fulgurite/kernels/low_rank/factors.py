"""The factors of a low-rank branch in the form that the kernels multiply with."""

from __future__ import annotations

import torch

__all__ = ["scaled_b"]


def scaled_b(lora_b: torch.Tensor, gate: torch.Tensor | None, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """scaling · g ⊙ B, multiplied in float32 or wider and rounded once.

    Args:
        lora_b: B, (N, r).
        gate: g, (r,), or None for plain LoRA.
        scaling: factor of the branch.
        dtype: of the result, (N, r).
    """
    wide = torch.promote_types(lora_b.dtype, torch.float32)
    scaled = lora_b.to(wide) * scaling if gate is None else lora_b.to(wide) * (gate.to(wide) * scaling)
    return scaled.to(dtype)
