"""Everything between fused_log_probs and the tiles: autograd, and the choice of supervised rows.

Gradients are kept as those of :class:`fulgurite.kernels.log_probs.autograd.LogProbs` are: with frozen heads they are built
in the forward and scaled in the backward, with a trained head the logits are computed a second time. The gate's gradient
always comes out of the forward's statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fulgurite.kernels.backend import resolve
from fulgurite.kernels.first_order import first_order_only
from fulgurite.kernels.fusion import blocks as fused_blocks
from fulgurite.kernels.fusion.blocks import FusedOutcome, Gradients, Specialist
from fulgurite.kernels.log_probs.autograd import Settings
from fulgurite.kernels.log_probs.outcome import Known, Needs
from fulgurite.kernels.log_probs.products import Head

__all__ = ["FusedLogProbs", "PARTS"]

# Tensors of a specialist: rows, low, weight, bias, up.
PARTS = 5


class FusedLogProbs(torch.autograd.Function):
    """weights (T, E), targets (T), indices of the supervised tokens or None, settings and needs of each specialist, then
    rows (T, H_e), low (T, r), weight (V, H_e), bias (V), up (V, r) of each -> (T)."""

    at_once = True

    @staticmethod
    def forward(ctx: Any, weights, targets, index, settings, needs, *tensors):  # type: ignore[no-untyped-def]
        ctx.settings, ctx.needs, ctx.count, ctx.index = settings, needs, targets.shape[0], index
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in tensors]
        trained = any(need.head for need in needs)
        early = [Needs() if trained else need for need in needs]
        found = _compute(weights, targets, index, settings, early, tensors, None, None)
        if trained:
            known = (found.log_probs, found.ref, found.share)
            ctx.save_for_backward(found.gate, *known, weights, targets, *tensors)
        else:
            ctx.save_for_backward(found.gate, *(part for each in found.gradients for part in each[:2]))
        return _spread(found.log_probs, index, ctx.count)

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad):  # type: ignore[no-untyped-def]
        gate, *saved = ctx.saved_tensors  # once: checkpointing refuses to unpack them again
        picked = _pick(grad, ctx.index).contiguous()
        d_weights = _spread(gate * picked.unsqueeze(1), ctx.index, ctx.count) if ctx.needs_input_grad[0] else None
        if any(need.head for need in ctx.needs):
            known, (weights, targets, *tensors) = Known(*saved[:3]), saved[3:]
            found = _compute(weights, targets, ctx.index, ctx.settings, ctx.needs, tensors, known, picked)
            gradients: Sequence[Gradients] = found.gradients
        else:
            scaled = [None if part is None else part * picked.unsqueeze(1) for part in saved]
            pairs = zip(scaled[::2], scaled[1::2], strict=True)
            gradients = [Gradients(rows, low, None, None, None) for rows, low in pairs]
        flat: list[torch.Tensor | None] = []
        for each in gradients:
            tokens = [None if part is None else _spread(part, ctx.index, ctx.count) for part in each[:2]]
            flat += [*tokens, *each[2:]]
        cast = [None if g is None else g.to(dtype) for g, dtype in zip(flat, ctx.dtypes, strict=True)]
        return (d_weights, *[None] * 4, *cast)


def _compute(
    weights: torch.Tensor,
    targets: torch.Tensor,
    index: torch.Tensor | None,
    settings: Sequence[Settings],
    needs: Sequence[Needs],
    tensors: Sequence[torch.Tensor | None],
    known: Known | None,
    coefficient: torch.Tensor | None,
) -> FusedOutcome:
    """The supervised tokens' outcome, by whichever backend is chosen."""
    specialists = []
    for i, setting in enumerate(settings):
        rows, low, weight, bias, up = tensors[PARTS * i : PARTS * (i + 1)]
        assert rows is not None and weight is not None
        inner = None if low is None else _pick(low, index)
        specialists.append(
            Specialist(_pick(rows, index), inner, Head(weight, bias, up, setting.logit_scale, setting.softcap))
        )
    compute = resolve("fused_log_probs", *tensors) or fused_blocks.fused_log_probs
    found = compute(specialists, _pick(weights, index), _pick(targets, index), known, coefficient, needs)
    assert isinstance(found, FusedOutcome)
    return found


def _pick(tensor: torch.Tensor, index: torch.Tensor | None) -> torch.Tensor:
    return tensor if index is None else tensor.index_select(0, index)


def _spread(part: torch.Tensor, index: torch.Tensor | None, count: int) -> torch.Tensor:
    """Rows of the supervised tokens among zeros."""
    if index is None:
        return part
    return part.new_zeros(count, *part.shape[1:]).index_copy_(0, index, part)
