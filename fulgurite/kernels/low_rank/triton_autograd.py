"""The Triton implementation of :func:`fulgurite.kernels.gated_lora_linear`: autograd, torch.compile, and what it refuses.

In eager mode a plain autograd.Function calls the launches: an operator of torch.library costs about 60 µs more per call,
which a model of base size would pay 72 times a step. While torch.compile traces, the same launches stand behind two
operators, ``fulgurite::gated_lora_forward`` and ``…_backward``, so that there is no graph break. The dropout seed is a 0-dim
tensor drawn on the device outside both: activation checkpointing restores that generator, a compiled graph is not
compiled anew for each seed, and nothing synchronises.
"""

from __future__ import annotations

from typing import Any

import torch

from fulgurite.kernels.first_order import first_order_only
from fulgurite.kernels.low_rank.triton_launch import backward, forward
from fulgurite.kernels.low_rank.triton_rules import MAX_RANK, MIN_RANK_TILE, rank_tile

__all__ = ["gated_lora_linear", "refusal"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def refusal(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
) -> str | None:
    """Why these tensors cannot be computed here (what was given; what is allowed), or None."""
    named = {"x": x, "weight": weight, "bias": bias, "lora_a": lora_a, "gate": gate, "lora_b": lora_b}
    wrong = [f"{name} is {t.dtype}" for name, t in named.items() if t is not None and t.dtype not in DTYPES]
    if wrong:
        return f"{', '.join(wrong)}; the Triton kernels take bfloat16, float16 and float32"
    if lora_a.shape[0] > MAX_RANK:
        return f"the rank is {lora_a.shape[0]}; the Triton kernels take ranks up to {MAX_RANK}"
    return None


def gated_lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
    scaling: float,
    dropout: float,
) -> torch.Tensor:
    """y (M, N) of x (M, K); x, weight and bias of one dtype, the adapter's tensors of any of the three."""
    seed = torch.randint(2**63 - 1, (), device=x.device) if dropout > 0 else None
    if torch.compiler.is_compiling():
        return _forward_op(x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout)[0]
    return _GatedLoRALinear.apply(x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout)


class _GatedLoRALinear(torch.autograd.Function):
    """x (M, K); weight (N, K); bias (N) or None; lora_a (r, K); gate (r) or None; lora_b (N, r) -> (M, N)."""

    @staticmethod
    def forward(ctx: Any, x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout):  # type: ignore[no-untyped-def]
        y, t = forward(x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout)
        ctx.save_for_backward(x, weight, lora_a, gate, lora_b, seed, t)
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.scaling, ctx.dropout = scaling, dropout
        return y

    @staticmethod
    @first_order_only
    def backward(ctx: Any, dy):  # type: ignore[no-untyped-def]
        return _gradients(ctx, dy, backward)


def _gradients(ctx: Any, dy: torch.Tensor, low_rank: Any) -> tuple[torch.Tensor | None, ...]:
    x, weight, lora_a, gate, lora_b, seed, t = ctx.saved_tensors
    need_x, need_w, need_bias, need_a, need_gate, need_b = ctx.needs_input_grad[:6]
    if 0 in dy.stride():
        dy = dy.contiguous()  # the gradient of a sum is one expanded element, which GEMMs would copy each for itself
    dx = da = dgate = db = None
    if need_x or need_a or need_gate or need_b:
        dx, da, dgate, db = low_rank(
            dy, x, weight, lora_a, gate, lora_b, t, seed, ctx.scaling, ctx.dropout, need_x, need_a, need_gate, need_b
        )
    dw = dy.t() @ x if need_w else None
    dbias = dy.sum(0).to(ctx.bias_dtype) if need_bias else None
    return dx, dw, dbias, da, dgate, db, None, None, None


_TENSORS = "Tensor x, Tensor weight, Tensor? bias, Tensor lora_a, Tensor? gate, Tensor lora_b"


@torch.library.custom_op(
    "fulgurite::gated_lora_forward",
    mutates_args=(),
    schema=f"({_TENSORS}, Tensor? seed, float scaling, float dropout) -> (Tensor, Tensor)",
)
def _forward_op(x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout):  # type: ignore[no-untyped-def]
    return forward(x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout)


@_forward_op.register_fake
def _(x, weight, bias, lora_a, gate, lora_b, seed, scaling, dropout):  # type: ignore[no-untyped-def]
    ranks = rank_tile(lora_a.shape[0]) if lora_a.shape[0] else MIN_RANK_TILE
    return x.new_empty(x.shape[0], weight.shape[0]), x.new_empty(x.shape[0], ranks, dtype=torch.float32)


_NEEDS = ("need_x", "need_a", "need_gate", "need_b")


@torch.library.custom_op(
    "fulgurite::gated_lora_backward",
    mutates_args=(),
    schema="(Tensor dy, Tensor x, Tensor weight, Tensor lora_a, Tensor? gate, Tensor lora_b, Tensor t, Tensor? seed, "
    f"float scaling, float dropout, {', '.join('bool ' + name for name in _NEEDS)}) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _backward_op(dy, x, weight, lora_a, gate, lora_b, t, seed, scaling, dropout, *needs):  # type: ignore[no-untyped-def]
    gradients = backward(dy, x, weight, lora_a, gate, lora_b, t, seed, scaling, dropout, *needs)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


@_backward_op.register_fake
def _(dy, x, weight, lora_a, gate, lora_b, t, seed, scaling, dropout, *needs):  # type: ignore[no-untyped-def]
    owners = (x, lora_a, gate, lora_b)
    return tuple(
        owner.new_empty(owner.shape) if need and owner is not None else x.new_empty(0)
        for owner, need in zip(owners, needs)
    )


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, weight, bias, lora_a, gate, lora_b, seed, ctx.scaling, ctx.dropout = inputs
    ctx.save_for_backward(x, weight, lora_a, gate, lora_b, seed, output[1])
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.set_materialize_grads(False)


def _op_backward(ctx: Any, dy: torch.Tensor | None, _: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
    if dy is None:
        return (None,) * 9
    return _gradients(ctx, dy, _present_gradients)


def _present_gradients(*arguments: Any) -> tuple[torch.Tensor | None, ...]:
    gradients = _backward_op(*arguments)
    return tuple(gradient if need else None for gradient, need in zip(gradients, arguments[-len(_NEEDS) :]))


torch.library.register_autograd("fulgurite::gated_lora_forward", _op_backward, setup_context=_setup_context)
