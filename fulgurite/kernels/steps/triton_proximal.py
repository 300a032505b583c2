"""AdamW followed by a proximal step as one Triton launch over a flat arena (see :mod:`fulgurite.kernels.steps.proximal`).

    p ← p − lr·wd·p;  m ← m + (1 − β₁)(g − m);  v ← β₂ v + (1 − β₂) g²;  p ← prox_t(p − lr/(1 − β₁ᵏ) · m / (√(v/(1 − β₂ᵏ)) + eps))

The step count k lives on the device and is raised by the kernel, so nothing synchronises. 1 − β and log β come from the host in
double precision: 1 − β₂ computed from a float32 β₂ = 0.999 would be 1.3e-5 off. An arena of all gates of a model is a few
thousand numbers, which one program walks through; a larger one takes several programs and a second launch for the
count, because no program may raise it while another has yet to read it.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import math

import torch
import triton
import triton.language as tl

from fulgurite.kernels.steps.proximal import AdamW

__all__ = ["adamw", "launch_plan", "proximal_adamw_kernel", "proximal_adamw_step_", "refusal"]

# One program of 8 warps holds 8 numbers of each of the four arrays per thread at a time: 32 registers.
BLOCK = 2048
WARPS = 8
# Up to here one program does it all: four turns of the loop, each about a memory latency, against a second launch. The gates
# of 32 layers with 7 modules each at rank 16 are 3584 numbers.
ONE_PROGRAM = 4 * BLOCK


@triton.jit
def _shrunk(value, threshold, SOFT: tl.constexpr):
    """prox_t(value): the soft threshold, or the released rule of SoRA, whose dead zone is twice as wide; NaN stays NaN."""
    low = tl.where(value > threshold, value - threshold, tl.where(value < -threshold, value + threshold, value))
    if SOFT:
        return tl.where((value <= threshold) & (value >= -threshold), 0.0, low)
    return tl.where(tl.abs(low) < threshold, 0.0, low)


@triton.jit
def adamw(param, grad, exp_avg, exp_avg_sq, size, correction2, decay, rate1, rate2, eps):
    """(param, exp_avg, exp_avg_sq) after one step; ``size`` = lr / (1 − β₁ᵏ), ``correction2`` = √(1 − β₂ᵏ)."""
    exp_avg += rate1 * (grad - exp_avg)
    exp_avg_sq += rate2 * (grad * grad - exp_avg_sq)
    denominator = tl.sqrt_rn(exp_avg_sq) / correction2 + eps
    # Not param · (1 − decay): its rounding is the same at every step, and fifty steps would show it.
    param -= decay * param
    return param - size * tl.div_rn(exp_avg, denominator), exp_avg, exp_avg_sq


@triton.jit
def proximal_adamw_kernel(
    param_ptr,
    grad_ptr,
    exp_avg_ptr,
    exp_avg_sq_ptr,
    step_ptr,
    n,
    lr,
    decay,
    rate1,
    rate2,
    log_beta1,
    log_beta2,
    eps,
    threshold,
    RAISE: tl.constexpr,
    SHRINK: tl.constexpr,
    SOFT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One step in place; ``decay`` = lr·wd, ``rate`` = 1 − β. ``RAISE``: a single program, which counts the step itself."""
    step = tl.load(step_ptr)
    if RAISE:
        step += 1.0
    correction1 = (1.0 - tl.exp(step.to(tl.float64) * log_beta1)).to(tl.float32)
    correction2 = tl.sqrt((1.0 - tl.exp(step.to(tl.float64) * log_beta2)).to(tl.float32))
    size = lr / correction1
    stride = tl.num_programs(0) * BLOCK
    for first in range(tl.program_id(0) * BLOCK, n, stride):
        places = first + tl.arange(0, BLOCK).to(tl.int64)
        mask = places < n
        param = tl.load(param_ptr + places, mask, other=0.0)
        grad = tl.load(grad_ptr + places, mask, other=0.0)
        exp_avg = tl.load(exp_avg_ptr + places, mask, other=0.0)
        exp_avg_sq = tl.load(exp_avg_sq_ptr + places, mask, other=0.0)
        param, exp_avg, exp_avg_sq = adamw(
            param, grad, exp_avg, exp_avg_sq, size, correction2, decay, rate1, rate2, eps
        )
        if SHRINK:
            param = _shrunk(param, threshold, SOFT)
        tl.store(param_ptr + places, param, mask)
        tl.store(exp_avg_ptr + places, exp_avg, mask)
        tl.store(exp_avg_sq_ptr + places, exp_avg_sq, mask)
    if RAISE:
        tl.debug_barrier()  # every warp has read the count before it changes
        tl.store(step_ptr, step)


def refusal(*tensors: torch.Tensor) -> str | None:
    """Why these tensors (param, grad, both moments, step) cannot be computed here, or None."""
    names = ("param", "grad", "exp_avg", "exp_avg_sq", "step")
    wrong = [f"{name} is {t.dtype}" for name, t in zip(names, tensors) if t.dtype != torch.float32]
    if wrong:
        return f"{', '.join(wrong)}; the Triton kernel takes float32"
    strided = [name for name, t in zip(names, tensors) if not t.is_contiguous()]
    if strided:
        return f"{', '.join(strided)} not contiguous; the Triton kernel takes flat arenas"
    return None


def launch_plan(n: int) -> tuple[int, bool]:
    """(programs, whether the kernel itself raises the step count) for n numbers."""
    return (1, True) if n <= ONE_PROGRAM else (triton.cdiv(n, BLOCK), False)


def proximal_adamw_step_(
    param: torch.Tensor,
    grad: torch.Tensor,
    exp_avg: torch.Tensor,
    exp_avg_sq: torch.Tensor,
    step: torch.Tensor,
    settings: AdamW,
) -> None:
    """One step in place on float32 arenas (n,); ``step`` 0-dim float32 on their device, raised by one."""
    lr, beta1, beta2, eps, weight_decay, threshold, prox = settings
    sizes = {"param": param.numel(), "grad": grad.numel(), "exp_avg": exp_avg.numel(), "exp_avg_sq": exp_avg_sq.numel()}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"proximal_adamw_step_: got {sizes} numbers; all four must be equally many.")
    programs, raises = launch_plan(param.numel())
    if not raises:
        step.add_(1)
    with torch.cuda.device_of(param):
        proximal_adamw_kernel[(programs,)](
            param,
            grad,
            exp_avg,
            exp_avg_sq,
            step,
            param.numel(),
            float(lr),
            lr * weight_decay,
            1.0 - beta1,
            1.0 - beta2,
            _log(beta1),
            _log(beta2),
            float(eps),
            float(threshold),
            RAISE=raises,
            SHRINK=threshold > 0,
            SOFT=prox == "soft",
            BLOCK=BLOCK,
            num_warps=WARPS,
        )


def _log(beta: float) -> float:
    return math.log(beta) if beta > 0 else -math.inf
