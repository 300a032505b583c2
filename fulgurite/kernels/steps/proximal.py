"""Soft threshold, and a step of AdamW followed by a proximal operator, on one flat tensor.

Soft threshold (the proximal operator of t·|v|): T_t(v) = sign(v)·max(|v| − t, 0). SoRA (arXiv 2311.11696, section 3.2)
applies it to the gates after each optimizer step.

``prox="reference"`` is what the authors' released ``sparse_optimizer.py`` computes instead. Its three masked statements
run one after the other, so a value with t < |v| < 2t is first shrunk below t and then zeroed:
|v| ≥ 2t → |v| − t, t < |v| < 2t → 0, |v| = t → unchanged, |v| < t → 0. The dead zone is 2t wide, not t.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from fulgurite.kernels.backend import resolve

__all__ = ["AdamW", "PROX_RULES", "proximal_adamw_step_", "soft_threshold_"]

PROX_RULES = ("soft", "reference")


class AdamW(NamedTuple):
    """What a step goes by beside its tensors: see :func:`proximal_adamw_step_`."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    threshold: float
    prox: str


class _SoftThreshold(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
        _shrink_(value, threshold)
        ctx.mark_dirty(value)
        ctx.save_for_backward(value)
        return value

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None]:  # type: ignore[override]
        (shrunk,) = ctx.saved_tensors
        return grad.masked_fill(shrunk == 0, 0.0), None


def soft_threshold_(value: torch.Tensor, threshold: float | torch.Tensor) -> torch.Tensor:
    """sign(v)·max(|v| − t, 0), in place.

    Args:
        value: any shape, floating point; NaN stays NaN.
        threshold: t ≥ 0, a number or a tensor that broadcasts to ``value``.

    Returns:
        ``value`` itself. Its gradient is 1 where it stayed away from zero and 0 elsewhere; none flows to ``threshold``.

    Raises:
        ValueError: a negative threshold (a tensor is not looked at: that would synchronise the device), or an integer value.
    """
    if not value.dtype.is_floating_point:
        raise ValueError(f"soft_threshold_: value is {value.dtype}; it must be floating point.")
    if not isinstance(threshold, torch.Tensor) and not threshold >= 0:
        raise ValueError(f"soft_threshold_: threshold={threshold}; it must be a number >= 0.")
    if value.requires_grad and torch.is_grad_enabled():
        return _SoftThreshold.apply(value, threshold)
    _shrink_(value, threshold)
    return value


def proximal_adamw_step_(
    param: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    *,
    step: torch.Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    threshold: float,
    prox: str = "soft",
) -> None:
    """One AdamW step (decoupled decay, arXiv 1711.05101) and then the proximal operator, in place, on flat tensors.

    Args:
        param: (n,) float32 (float64 in tests).
        grad: (n,), same dtype and device.
        exp_avg: first moment, (n,).
        exp_avg_sq: second moment, (n,).
        step: steps done so far, 0-dim float32 on the parameters' device; raised by one here, in place.
        lr: learning rate. The threshold is not multiplied by it here: the optimizer decides what is passed.
        beta1: decay of the first moment.
        beta2: decay of the second moment.
        eps: added to the denominator.
        weight_decay: decoupled decay.
        threshold: t ≥ 0; 0 means no shrinking.
        prox: ``"soft"`` or ``"reference"`` (see the module docstring).
    """
    if prox not in PROX_RULES:
        raise ValueError(f"proximal_adamw_step_: prox={prox!r}; allowed are {', '.join(map(repr, PROX_RULES))}.")
    function = resolve("proximal_adamw_step_", param, grad, exp_avg, exp_avg_sq, step)
    if function is not None:
        settings = AdamW(lr, beta1, beta2, eps, weight_decay, threshold, prox)
        function(param, grad, exp_avg, exp_avg_sq, step, settings)
        return
    step.add_(1)
    torch._fused_adamw_(
        [param],
        [grad],
        [exp_avg],
        [exp_avg_sq],
        [],
        [step],
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        weight_decay=weight_decay,
        eps=eps,
        amsgrad=False,
        maximize=False,
    )
    if threshold > 0 and prox == "soft":
        _shrink_(param, threshold)
    elif threshold > 0:
        _reference_(param, threshold)


@torch.no_grad()
def _shrink_(value: torch.Tensor, threshold: float | torch.Tensor) -> None:
    if isinstance(threshold, torch.Tensor):
        value.sub_(value.clamp(min=-threshold, max=threshold))
    else:
        # v − clamp(v, −t, t) is the soft threshold exactly: v ∓ t outside, v − v = 0 inside, and NaN stays NaN.
        value.sub_(value.clamp(-threshold, threshold))


@torch.no_grad()
def _reference_(value: torch.Tensor, threshold: float) -> None:
    """The released rule with ``where`` in place of boolean indexing, which would synchronise a GPU; same arithmetic."""
    shrunk = torch.where(value > threshold, value - threshold, value)
    shrunk = torch.where(shrunk < -threshold, shrunk + threshold, shrunk)
    value.copy_(shrunk.masked_fill_(shrunk.abs() < threshold, 0.0))
