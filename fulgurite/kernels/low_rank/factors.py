"""The factors of the low-rank branch as the kernels want them."""

from __future__ import annotations

import torch

__all__ = ["scaled_b"]


def scaled_b(lora_b: torch.Tensor, gate: torch.Tensor | None, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    wide = torch.promote_types(lora_b.dtype, torch.float32)
    scaled = lora_b.to(wide) * scaling if gate is None else lora_b.to(wide) * (gate.to(wide) * scaling)
    return scaled.to(dtype)
