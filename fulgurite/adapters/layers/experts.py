"""Low-rank branches beside stacked experts: each expert has factors of its own, and all experts are computed together.

    y_e = x_e W_eᵀ + bias_e + s · ((drop(x_e) A_eᵀ) ⊙ g_e) B_eᵀ     for the tokens x_e that chose expert e

The update s · B diag(g) A is never made: PEFT makes it for every expert in every forward, and its gradient as well.
The other steps are those of transformers' forward over grouped rows (``grouped_mm_experts_forward``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters.layers.low_rank_branch import LowRankBranch
from fulgurite.kernels.low_rank.grouped import Groups, grouped_linear

__all__ = ["ExpertsBranch", "experts_forward"]


class ExpertsBranch(nn.ModuleDict):
    """An adapter's low-rank branches beside the stacked weights of one module, by the Parameter's name there."""

    def of(self, key: str) -> LowRankBranch | None:
        """The branch beside this Parameter; None where it has none."""
        branch = self._modules.get(key)
        assert branch is None or isinstance(branch, LowRankBranch)
        return branch


def experts_forward(
    layer: Any, branches: Sequence[ExpertsBranch], hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """What a module of stacked experts computes, plus its branches.

    Args:
        layer: the module; see :mod:`fulgurite.adapters.layers.stacks`.
        branches: the active ones.
        hidden: (T, H).
        chosen: (T, k) int64, the experts of each token.
        weights: (T, k), with which the outputs of its experts are added up.

    Returns:
        (T, H) in the dtype of ``hidden``. Products are computed in the dtype of the experts' weights, also under autocast, as
        transformers does.
    """
    tokens, picks = chosen.shape
    flat, order = chosen.reshape(-1).sort(stable=True)
    groups = Groups(flat, layer.num_experts)
    with torch.autocast(hidden.device.type, enabled=False):
        x = hidden.reshape(-1, hidden.shape[-1])[order // picks]
        x = _projected(layer, "gate_up_proj" if layer.has_gate else "up_proj", x, groups, branches)
        x = layer._apply_gate(x) if layer.has_gate else layer.act_fn(x)
        x = _projected(layer, "down_proj", x, groups, branches)
        if getattr(layer, "has_post_expert_norm", False):
            x = layer.post_expert_norm(x)
        x = x * weights.reshape(-1)[order, None]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=order.device)
        return x[back].view(tokens, picks, -1).sum(1).to(hidden.dtype).view(hidden.shape)


def _projected(
    layer: Any, key: str, x: torch.Tensor, groups: Groups, branches: Sequence[ExpertsBranch]
) -> torch.Tensor:
    """(S, K) -> (S, N): the rows through their experts' weights, biases and branches."""
    weight: torch.Tensor = getattr(
        layer, key
    )  # not from _parameters: an adapter that trains scalars of it answers here
    x = x.to(weight.dtype)
    y = grouped_linear(x, weight if layer.is_transposed else weight.mT, groups)
    if layer.has_bias:
        y = y + getattr(layer, f"{key}_bias")[groups.of_row]
    for several in branches:
        branch = several.of(key)
        if branch is not None:
            y = y + _low_rank(branch, x, groups, layer.training)
    return y


def _low_rank(branch: LowRankBranch, x: torch.Tensor, groups: Groups, training: bool) -> torch.Tensor:
    """s · ((drop(x) Aᵀ) ⊙ g) Bᵀ of each row's expert, (S, N), or () zero; products in the dtype of x, gates in float32 or wider."""
    a, gate, b = branch.factors()
    a, b = a.to(x.dtype), b.to(x.dtype)
    if not branch.live:  # zero, of which DDP sees that the parameters took part
        return torch.stack([factor.sum().to(x.dtype) for factor in (a, gate, b) if factor is not None]).sum()
    if missing := -branch.live % (16 // x.element_size()):  # ranks of zeros: grouped_mm takes multiples of 16 bytes
        a, b = F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))
    low = grouped_linear(F.dropout(x, branch.dropout, training), a.mT, groups)
    if gate is not None:
        wide = low.to(torch.promote_types(low.dtype, gate.dtype))
        low = (wide * F.pad(gate, (0, missing)).index_select(0, groups.of_row)).to(x.dtype)
    return grouped_linear(low * branch.scaling, b.mT, groups)
