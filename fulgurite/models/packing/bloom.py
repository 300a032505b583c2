"""BLOOM on packed rows. Its attention is no replaceable function, so its two classes are swapped for these, in place.

ALiBi adds slope_h · j to the scores, with j counted from the start of the row. Far into a pack this is so large a number that
small differences are rounded away; here it is slope_h · (j − i), counted within the segment or along the path of a tree. Parameters
and keys do not change, and batches that are not packed run the original forward of these classes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from transformers.models.bloom.modeling_bloom import BloomAttention, BloomModel

from fulgurite.models.packing.attention_functions import Rule, attend
from fulgurite.models.packing.segments import packed_structure

__all__ = ["PackedBloomAttention", "PackedBloomModel", "swap_bloom", "unswap_bloom"]


class PackedBloomModel(BloomModel):
    """Hands the heads' slopes (H,) instead of biases to the layers of a packed batch."""

    def build_alibi_tensor(self, attention_mask: torch.Tensor, num_heads: int, dtype: torch.dtype) -> torch.Tensor:
        """(B·H, 1, T) biases; of a packed batch the slopes, float32."""
        if packed_structure(attention_mask) is None:
            return super().build_alibi_tensor(attention_mask, num_heads, dtype)
        two = torch.ones(1, 2, dtype=torch.int64, device=attention_mask.device)
        return super().build_alibi_tensor(two, num_heads, torch.float32)[:, 0, 1]


class PackedBloomAttention(BloomAttention):
    """Goes segment by segment where the mask says so."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        residual: torch.Tensor,
        alibi: torch.Tensor,
        attention_mask: torch.Tensor,
        *more: Any,
        **options: Any,
    ) -> tuple[Any, ...]:
        """As BloomAttention; ``more`` and ``options`` (caches, flags) differ between versions and go to it unchanged."""
        segments = packed_structure(attention_mask)
        if segments is None:
            return super().forward(hidden_states, residual, alibi, attention_mask, *more, **options)
        rows, tokens, _ = hidden_states.shape
        if segments.windows is not None:
            segments.windows.append(None)
        fused = self.query_key_value(hidden_states).view(rows, tokens, self.num_heads, 3, self.head_dim)
        query, key, value = (fused[..., part, :].transpose(1, 2) for part in range(3))
        dropout = self.attention_dropout.p if self.training else 0.0
        rule = Rule(self.inv_norm_factor, dropout=dropout, slopes=alibi)
        context = self.dense(attend(query, key, value, segments, rule).reshape(rows, tokens, -1))
        return residual + F.dropout(context, self.hidden_dropout, self.training), None


_SWAPS: dict[Any, Any] = {BloomModel: PackedBloomModel, BloomAttention: PackedBloomAttention}


def swap_bloom(model: torch.nn.Module) -> None:
    """Make a BLOOM model understand packed batches; modules of other classes are left alone."""
    for module in model.modules():
        if type(module) in _SWAPS:
            module.__class__ = _SWAPS[type(module)]


def unswap_bloom(model: torch.nn.Module) -> None:
    """Undo :func:`swap_bloom`."""
    back = {packed: plain for plain, packed in _SWAPS.items()}
    for module in model.modules():
        if type(module) in back:
            module.__class__ = back[type(module)]
