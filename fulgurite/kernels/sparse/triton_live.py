"""AdamW on a flat δ and the writes of base + δ into all live weights, as one Triton launch.

See :mod:`fulgurite.kernels.sparse.live`. A program takes up to ``BLOCK`` numbers of one weight's stretch; a table holds each
program's stretch and the weight's address. The corrections of both moments come from the host in double precision.
Positions are unique, so that no two threads write to one place.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

from fulgurite.kernels.sparse.live import LiveWeights
from fulgurite.kernels.steps.triton_proximal import adamw
from fulgurite.kernels.triton_common import rounded

__all__ = ["refusal", "sparse_adamw_kernel", "sparse_adamw_step_"]

INTERPRETED = not isinstance(rounded, triton.JITFunction)
# 4 warps with 8 numbers a thread: enough loads in flight, and a small stretch (a bias) wastes little.
BLOCK, WARPS = 1024, 4


@triton.jit
def sparse_adamw_kernel(
    table_ptr,
    delta_ptr,
    grad_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    base_ptr,
    position_ptr,
    size,
    correction2,
    decay,
    rate1,
    rate2,
    eps,
    BLOCK: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """One program of the table; ``size`` = lr / (1 − β₁ᵏ), ``correction2`` = √(1 − β₂ᵏ), ``decay`` = lr·wd, ``rate`` = 1 − β."""
    row = table_ptr + tl.program_id(0) * 3
    dtype: tl.constexpr = base_ptr.dtype.element_ty
    weight_ptr = tl.load(row).to(tl.pointer_type(dtype))
    places = tl.load(row + 1) + tl.arange(0, BLOCK)
    mask = places < tl.load(row + 2)
    delta = tl.load(delta_ptr + places, mask, other=0.0)
    grad = tl.load(grad_ptr + places, mask, other=0.0)
    exp_avg = tl.load(exp_avg_ptr + places, mask, other=0.0)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + places, mask, other=0.0)
    delta, exp_avg, exp_avg_sq = adamw(delta, grad, exp_avg, exp_avg_sq, size, correction2, decay, rate1, rate2, eps)
    tl.store(delta_ptr + places, delta, mask)
    tl.store(exp_avg_ptr + places, exp_avg, mask)
    tl.store(exp_avg_sq_ptr + places, exp_avg_sq, mask)
    live = tl.load(base_ptr + places, mask, other=0.0).to(tl.float32) + delta
    position = tl.load(position_ptr + places, mask, other=0)
    tl.store(weight_ptr + position, rounded(live, dtype, INTERPRETED), mask)


def refusal(*tensors: torch.Tensor) -> str | None:
    """Why these tensors (delta, grad, both moments, base) cannot be computed here, or None."""
    names = ("delta", "grad", "exp_avg", "exp_avg_sq")
    wrong = [f"{name} is {t.dtype}" for name, t in zip(names, tensors) if t.dtype != torch.float32]
    if wrong:
        return f"{', '.join(wrong)}; the Triton kernel takes float32"
    if tensors[-1].dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"the live weights are {tensors[-1].dtype}; the Triton kernel writes bfloat16, float16 and float32"
    strided = [name for name, t in zip(names, tensors) if not t.is_contiguous()]
    return f"{', '.join(strided)} not contiguous; the Triton kernel takes flat arenas" if strided else None


def sparse_adamw_step_(
    delta: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    live: LiveWeights,
    step: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """One step in place on float32 arenas (n,) and the live weights; ``step`` counts this one."""
    table = live.table(BLOCK)
    if not table.shape[0]:
        return
    with torch.cuda.device(delta.device) if delta.is_cuda else nullcontext():
        sparse_adamw_kernel[(table.shape[0],)](
            table,
            delta,
            grad,
            exp_avg,
            exp_avg_sq,
            live.base,
            live.positions,
            lr / (1.0 - beta1**step),
            (1.0 - beta2**step) ** 0.5,
            lr * weight_decay,
            1.0 - beta1,
            1.0 - beta2,
            float(eps),
            BLOCK=BLOCK,
            INTERPRETED=INTERPRETED,
            num_warps=WARPS,
        )
