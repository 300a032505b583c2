"""Gated low-rank linear layer: y = x Wᵀ + bias + s · ((drop(x) Aᵀ) ⊙ g) Bᵀ, with its own backward.

Source: SoRA, Ding et al. 2023 (arXiv 2311.11696), section 3.1: Δ = W_u (g ⊙ (W_d x)); without a gate it is LoRA
(arXiv 2106.09685). Backward, with δ = ∂L/∂y summed over tokens, t = x̃ Aᵀ and u = δ B:

    ∂B = s · δᵀ (t ⊙ g)    ∂g = s · Σ u ⊙ t    ∂A = (s · g ⊙ u)ᵀ x̃    ∂x = (s · g ⊙ u) A + δ W

What makes it cheaper than plain autograd:

* the small product is written first and the big one is accumulated onto it (``addmm_``), in the forward and in ∂x, so
  no second tensor of y's size is read or written;
* t (tokens × r) is kept, never a copy of x in another dtype; u is computed once and serves ∂g, ∂A and ∂x;
* the gate enters through s·g·B (N × r) and never through a pass over tokens in the forward;
* dropout is redrawn in the backward from its seed; no mask is stored.

∂g is summed in float32 whatever the dtype of x. A zero gate stops ∂A and ∂B but not ∂g: a gate can come back.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from fulgurite.kernels.backend import resolve
from fulgurite.kernels.first_order import first_order_only
from fulgurite.kernels.low_rank.factors import check_parts, scaled_b

__all__ = ["gated_lora_linear"]


def draw_seed() -> int:
    """A seed from PyTorch's default CPU generator, which activation checkpointing saves and restores; no device sync."""
    return int(torch.empty((), dtype=torch.int64, device="cpu").random_().item())


def dropout_scale(x: torch.Tensor, dropout: float, seed: int) -> torch.Tensor:
    """What x is multiplied by: 0 or 1/(1 − dropout) per element, shape and dtype of ``x``; a function of the seed."""
    keep = 1.0 - dropout
    generator = torch.Generator(device=x.device).manual_seed(seed)
    return torch.empty_like(x, memory_format=torch.contiguous_format).bernoulli_(keep, generator=generator).div_(keep)


class GatedLoRALinear(torch.autograd.Function):
    """x (M, K); weight (N, K); bias (N) or None; lora_a (r, K); gate (r) or None; lora_b (N, r) -> (M, N).

    In the place of the weight a function may stand that makes it of a packed one, given a dtype (see packed.py). It is called in
    the forward and again in the backward, and what it made is kept by neither.
    """

    @staticmethod
    def forward(ctx: Any, x, weight, bias, lora_a, gate, lora_b, scaling, dropout, seed):  # type: ignore[no-untyped-def]
        dtype = x.dtype
        ctx.unpack = None if isinstance(weight, torch.Tensor) else weight
        a = lora_a.to(dtype)
        b = scaled_b(lora_b, gate, scaling, dtype)
        dropped = x * dropout_scale(x, dropout, seed) if dropout > 0 else x
        t = dropped @ a.t()
        y = t @ b.t() if bias is None else torch.addmm(bias, t, b.t())
        y.addmm_(x, (weight if ctx.unpack is None else ctx.unpack(dtype)).t())
        ctx.save_for_backward(x, weight if ctx.unpack is None else None, lora_a, gate, lora_b, t)
        ctx.scaling, ctx.dropout, ctx.seed = scaling, dropout, seed
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @first_order_only
    def backward(ctx: Any, dy):  # type: ignore[no-untyped-def]
        x, weight, lora_a, gate, lora_b, t = ctx.saved_tensors
        need_x, need_w, need_bias, need_a, need_gate, need_b = ctx.needs_input_grad[:6]
        dtype, scaling = x.dtype, ctx.scaling
        dx = dw = dbias = da = dgate = db = None
        wide = torch.promote_types(dtype, torch.float32)
        scale = scaling if gate is None else gate.to(wide) * scaling
        if need_b:
            gated = t if gate is None else (t * gate.to(wide)).to(dtype)
            summed = _sum_over_rows(gated, dy).t()
            db = summed.to(lora_b.dtype, memory_format=torch.contiguous_format).mul_(scaling)
        if need_x or need_a or need_gate:
            u = dy @ _for_narrow_product(lora_b.to(dtype))
            if gate is not None:
                u = u.to(wide)
            if need_gate:
                dgate = (u * t.to(wide)).sum(0).mul_(scaling).to(gate.dtype)
            v = u.mul_(scale).to(dtype)
        mask = dropout_scale(x, ctx.dropout, ctx.seed) if ctx.dropout > 0 and (need_x or need_a) else None
        if need_a:
            da = _sum_over_rows(v, x if mask is None else x * mask).to(lora_a.dtype)
        if need_x:
            dx = v @ lora_a.to(dtype)
            if mask is not None:
                dx.mul_(mask)
            dx.addmm_(dy, weight if ctx.unpack is None else ctx.unpack(dtype))
        if need_w:
            dw = dy.t() @ x
        if need_bias:
            dbias = dy.sum(0).to(ctx.bias_dtype)
        return dx, dw, dbias, da, dgate, db, None, None, None


def gated_lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    """y = x Wᵀ + bias + scaling · ((drop(x) Aᵀ) ⊙ gate) Bᵀ (SoRA, arXiv 2311.11696 section 3.1).

    Args:
        x: input, (…, K).
        weight: (N, K), any strides (a transposed view is fine). It gets a gradient if it requires one.
        bias: (N,) or None.
        lora_a: down projection, (r, K). r may be 0: then this is F.linear, and A, gate and B still take part in the graph.
        gate: (r,) or None for plain LoRA.
        lora_b: up projection, (N, r).
        scaling: α / r_max.
        dropout: probability of zeroing an element of x in the low-rank branch only, 0 ≤ dropout < 1.

    Returns:
        (…, N), in the dtype of ``x``; under autocast in autocast's dtype.

    Dtypes: x and weight share one dtype (autocast casts both); A, gate and B may be wider (float32 masters under a bf16
    base is the usual case): they are rounded to x's dtype for the products only, the gate after it was multiplied into B in
    float32, and each gradient comes back in its own parameter's dtype.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit, named.
        RuntimeError: ``use_backend("triton")`` where Triton cannot compute it.
    """
    _check(x, weight, bias, lora_a, gate, lora_b, dropout)
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight = x.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    elif x.dtype != weight.dtype:
        raise ValueError(
            f"gated_lora_linear: x is {x.dtype} and weight is {weight.dtype}; outside autocast they must be equal. "
            "Cast one of them, or run under torch.autocast."
        )
    if bias is not None and bias.dtype != x.dtype:
        bias = bias.to(x.dtype)
    triton = resolve("gated_lora_linear", x, weight, bias, lora_a, gate, lora_b)
    if triton is None and dropout > 0 and torch.compiler.is_compiling():
        return _traced(x, weight, bias, lora_a, gate, lora_b, scaling, dropout)
    flat = x.reshape(-1, x.shape[-1])
    with torch.autocast(device, enabled=False):
        if triton is not None:
            y = triton(flat, weight, bias, lora_a, gate, lora_b, float(scaling), float(dropout))
        else:
            seed = draw_seed() if dropout > 0 else 0
            y = GatedLoRALinear.apply(flat, weight, bias, lora_a, gate, lora_b, float(scaling), float(dropout), seed)
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _traced(x, weight, bias, lora_a, gate, lora_b, scaling, dropout):  # type: ignore[no-untyped-def]
    """The same in operations that the compiler can trace; it redraws its own random numbers in the backward."""
    low = F.dropout(x, dropout) @ lora_a.to(x.dtype).t()
    return F.linear(x, weight, bias) + low @ scaled_b(lora_b, gate, scaling, x.dtype).t()


def _sum_over_rows(narrow: torch.Tensor, wide: torch.Tensor) -> torch.Tensor:
    """narrowᵀ wide: (M, r) and (M, n) -> (r, n).

    In this orientation: wideᵀ narrow costs up to nine times as much (float32, 2048x1024, r 8: 4.8 ms against 0.5). On the CPU
    in float32 the rows go in up to eight batches, because the library splits a skinny product badly over the cores. With few
    rows none of this matters, and the order of summation is the twin's.
    """
    rows = narrow.shape[0]
    if rows < 128:
        return (wide.t() @ narrow).t()
    batches = min(8, rows // 256)
    if narrow.device.type != "cpu" or narrow.dtype != torch.float32 or batches < 2 or not wide.is_contiguous():
        return narrow.t() @ wide
    size = rows // batches
    whole = size * batches
    stacked = torch.bmm(
        narrow[:whole].view(batches, size, -1).transpose(1, 2), wide[:whole].view(batches, size, wide.shape[1])
    )
    total = stacked.sum(0)
    return total if whole == rows else total.addmm_(narrow[whole:].t(), wide[whole:])


def _for_narrow_product(factor: torch.Tensor) -> torch.Tensor:
    """The same (n, r) with its columns contiguous where the CPU's library multiplies such faster: float32 up to rank 8."""
    if factor.device.type == "cpu" and factor.dtype == torch.float32 and factor.shape[1] <= 8:
        return factor.t().contiguous().t()
    return factor


def _check(x, weight, bias, lora_a, gate, lora_b, dropout) -> None:  # type: ignore[no-untyped-def]
    if weight.dim() != 2 or x.dim() < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"gated_lora_linear: x {tuple(x.shape)} does not fit weight {tuple(weight.shape)}; want (…, K) and (N, K)."
        )
    check_parts("gated_lora_linear", "x", x.device, weight, bias=bias, lora_a=lora_a, gate=gate, lora_b=lora_b)
    if not x.dtype.is_floating_point or not weight.dtype.is_floating_point:
        raise ValueError(f"gated_lora_linear: x is {x.dtype} and weight {weight.dtype}; both must be floating point.")
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"gated_lora_linear: dropout={dropout}; allowed is 0 <= dropout < 1.")
