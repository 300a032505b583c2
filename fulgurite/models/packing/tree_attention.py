"""Attention over a tree of segments on the CPU, without masks and without copies of the ancestors' keys.

A token's keys are those of several stretches of the row: its own chain up to itself, and what stands before the chain on its
path (:class:`fulgurite.models.packing.segments.Chain`). Each stretch p is attended to on its own, by torch's CPU kernel, which also
gives ℓ_p = log Σ_j exp(s · q·k_j); the results are put together as in flash attention (Dao et al. 2022, arXiv:2205.14135):

    ℓ = log Σ_p exp ℓ_p,   out = Σ_p exp(ℓ_p − ℓ) out_p

The backward of a stretch needs nothing but out and ℓ of the whole, and adds its gradients where they belong: no tensor as
long as the row is made per stretch. Chains that branch off at the same token ask for their common ancestors together.

The two kernels have no public name; torch calls them for `scaled_dot_product_attention`. They are used only after they gave
the right numbers on a small tree (:func:`kernels_agree`). Else every chain gets a mask and its own copy of its ancestors' keys
and values: what a layer keeps for its backward is then 2 times (five turns of UltraInteract) to 6 times as much (16 short
answers to one long prompt), and the time, equal for the first, is 1.3 times as long for the second.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from fulgurite.kernels.first_order import first_order_only
from fulgurite.models.packing.segments import Segments

__all__ = ["applicable", "attend_tree", "kernels_agree"]

# From 2.9 on (pytorch pull request 157893) the kernels take fewer key heads than query heads. Earlier ones read and write past the
# tensors' ends there, so that no trial may find out.
GROUPED = tuple(int(part) for part in torch.__version__.split(".")[:2]) >= (2, 9)
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.01}


def applicable(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether :func:`attend_tree` can take these tensors, on this torch."""
    grouped = query.shape[1] != key.shape[1]
    return (
        query.device.type == "cpu"
        and query.dtype == key.dtype == value.dtype
        and query.shape[-1] == value.shape[-1]
        and (GROUPED or not grouped)
        and kernels_agree(query.dtype, grouped)
    )


def attend_tree(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float
) -> torch.Tensor:
    """Attention of tokens in preorder to their paths.

    Args:
        query: (1, H, T, D).
        key: (1, G, T, D), H a multiple of G.
        value: (1, G, T, D).
        segments: of T tokens together.
        scaling: of the scores.

    Returns:
        (1, T, H, D).
    """
    query, key, value = (tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value))
    out: torch.Tensor = _TreeAttention.apply(query, key, value, segments, scaling)  # type: ignore[no-untyped-call]
    return out


class _TreeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float
    ) -> torch.Tensor:
        out, log_sums = _forward(query, key, value, segments, scaling)
        ctx.save_for_backward(query, key, value, out, log_sums)
        ctx.segments, ctx.scaling = segments, scaling
        return out

    @staticmethod
    @first_order_only
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        query, key, value, out, log_sums = ctx.saved_tensors
        return (*_backward(grad, query, key, value, out, log_sums, ctx.segments, ctx.scaling), None, None)


def _stretches(segments: Segments) -> tuple[list[tuple[int, int]], list[tuple[int, int, int, int]]]:
    """Tokens (start, stop) of each chain; and (start, stop, first key, last key + 1) of what looks at its ancestors."""
    at = segments.offsets
    chains, looks = [], []
    together: tuple[int, int, tuple[tuple[int, int], ...]] | None = None
    for start, stop, path in segments.chains:
        chains.append((at[start], at[stop]))
        if together is not None and together[2] == path:
            together = (together[0], stop, path)
        else:
            if together is not None:
                looks.append(together)
            together = (start, stop, path)
    if together is not None:
        looks.append(together)
    return chains, [(at[start], at[stop], at[a], at[b]) for start, stop, path in looks for a, b in path]


def _forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scaling: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """out (1, T, H, D) and ℓ (1, T, H), the layout in which the kernel itself has them."""
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    _, heads, tokens, width = query.shape
    out = query.new_empty(1, tokens, heads, width)
    log_sums = query.new_empty(1, tokens, heads, dtype=torch.promote_types(query.dtype, torch.float32))
    chains, looks = _stretches(segments)
    for a, b in chains:
        part, sums = attend(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b], 0.0, True, scale=scaling)
        out[:, a:b], log_sums[:, a:b] = part.transpose(1, 2), sums.transpose(1, 2)
    for a, b, c, d in looks:
        part, sums = attend(query[:, :, a:b], key[:, :, c:d], value[:, :, c:d], 0.0, False, scale=scaling)
        part, sums, before = part.transpose(1, 2), sums.transpose(1, 2), log_sums[:, a:b]
        share = torch.sigmoid(sums - before)[..., None]
        if out.dtype == log_sums.dtype:
            out[:, a:b].lerp_(part, share)
        else:
            out[:, a:b] = torch.lerp(out[:, a:b].to(log_sums.dtype), part.to(log_sums.dtype), share)
        torch.logaddexp(before, sums, out=before)
    return out, log_sums


def _backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    out: torch.Tensor,
    log_sums: torch.Tensor,
    segments: Segments,
    scaling: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grad, out, log_sums = grad.contiguous().transpose(1, 2), out.transpose(1, 2), log_sums.transpose(1, 2)
    grads = tuple(
        torch.empty_like(tensor.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        for tensor in (query, key, value)
    )

    def part(a: int, b: int, c: int, d: int, causal: bool) -> Any:
        own = (slice(None), slice(None), slice(a, b))
        there = (slice(None), slice(None), slice(c, d))
        given = (grad[own], query[own], key[there], value[there], out[own], log_sums[own])
        found = back(*given, 0.0, causal, scale=scaling)
        return zip(grads, (own, there, there), found, strict=True)

    chains, looks = _stretches(segments)
    for a, b in chains:
        for whole, where, piece in part(a, b, a, b, True):
            whole[where] = piece
    for a, b, c, d in looks:
        for whole, where, piece in part(a, b, c, d, False):
            whole[where] += piece
    return grads[0], grads[1], grads[2]


@cache
def kernels_agree(dtype: torch.dtype, grouped: bool) -> bool:
    """Whether torch has the two kernels and they give, on a small tree, what the formula gives.

    Args:
        dtype: of queries, keys and values.
        grouped: with half as many key heads as query heads; only where ``GROUPED``.
    """
    if dtype not in _TOLERANCES:
        return False
    generator = torch.Generator().manual_seed(0)
    segments, scaling = Segments(torch.tensor([0, 3, 5, 9, 10]), torch.tensor([-1, 0, 0, 1])), 0.4
    query, grad = (torch.randn(1, 4, 10, 8, generator=generator).to(dtype) for _ in range(2))
    heads = 2 if grouped else 4
    key, value = (torch.randn(1, heads, 10, 8, generator=generator).to(dtype) for _ in range(2))
    order = segments.order
    assert order is not None
    sees = torch.zeros(10, 10, dtype=torch.bool)
    for own, path in {(0, 3): [], (3, 5): [(0, 3)], (5, 9): [(0, 3)], (9, 10): [(0, 3), (3, 5)]}.items():
        sees[slice(*own), slice(*own)] = True
        for stretch in path:
            sees[slice(*own), slice(*stretch)] = True
    sees = sees.tril()[order][:, order]
    # By hand instead of autograd: whoever records saved tensors around this (checkpointing) must not see any.
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        try:
            out, log_sums = _forward(query, key, value, segments, scaling)
            found = _backward(grad.transpose(1, 2), query, key, value, out, log_sums, segments, scaling)
        except Exception:
            return False
        q, g = (tensor.double().view(heads, -1, 10, 8) for tensor in (query, grad))
        k, v = key.double()[0, :, None], value.double()[0, :, None]
        weights = (q @ k.mT * scaling).masked_fill(~sees, float("-inf")).softmax(-1)
        wanted = weights @ v
        scores = weights * (g @ v.mT - (g * wanted).sum(-1, keepdim=True)) * scaling
        pairs = [
            (out.transpose(1, 2), wanted.reshape(1, 4, 10, 8)),
            (found[0], (scores @ k).reshape(1, 4, 10, 8)),
            (found[1], (scores.mT @ q).sum(1)[None]),
            (found[2], (weights.mT @ g).sum(1)[None]),
        ]
        tolerance = _TOLERANCES[dtype]
        return all(float((a.double() - b).abs().max() / b.abs().max()) <= tolerance for a, b in pairs)
