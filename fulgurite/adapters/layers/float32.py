"""Modules whose parameters stay float32 when the model around them is cast: half precision would lose small steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

__all__ = ["Float32Module"]


class Float32Module(nn.Module):
    """Base of what adapters train: ``model.to(torch.bfloat16)``, ``half()`` and Lightning's ``bf16-true`` do not narrow it.

    Its parameters are made with ``dtype=torch.float32``, because Lightning builds models under another default dtype.
    """

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def wide(tensor: torch.Tensor) -> torch.Tensor:
            moved = fn(tensor)
            narrow = moved.is_floating_point() and moved.dtype != tensor.dtype
            # Cast from the tensor as it was: what was rounded on the way does not come back.
            kept = torch.promote_types(moved.dtype, torch.float32)
            return tensor.to(moved.device, kept) if narrow and moved.dtype != kept else moved

        return super()._apply(wide, recurse)
