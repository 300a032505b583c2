"""Forward and backward of the gated low-rank linear layer as sequences of launches.

Forward: shrink, expand, ``addmm_`` of x Wᵀ. Backward: project, outer, reduce, expand, ``addmm_`` of dy W. The small term is written
first and the vendor's GEMM accumulates onto it, so that the adapter costs one extra write of a tensor of y's size and no more.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton

from fulgurite.kernels.low_rank.triton_reductions import outer_kernel, reduce_kernel
from fulgurite.kernels.low_rank.triton_rules import (
    GATE_PARTS_AT_ONCE,
    MIN_RANK_TILE,
    Tile,
    expand_tile,
    outer_tile,
    rank_step,
    rank_tile,
    reduce_tile,
    shrink_tile,
    split_rows,
)
from fulgurite.kernels.low_rank.triton_skinny import expand_kernel, project_kernel, shrink_kernel
from fulgurite.kernels.triton_common import INTERPRETED, device_of, precision

__all__ = ["backward", "forward"]


def forward(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
    seed: torch.Tensor | None,
    scaling: float,
    dropout: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """y (M, N) and t (M, rank_tile(r)), float32, of x (M, K); ``seed`` is a 0-dim int64 on the device, or None without dropout."""
    (m, k), n, rank = x.shape, weight.shape[0], lora_a.shape[0]
    if not rank or not m or not n or not k:
        y = x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())
        return y, x.new_zeros(m, MIN_RANK_TILE, dtype=torch.float32)
    ranks = rank_tile(rank)
    tile = shrink_tile(m, ranks, x.itemsize, dropout > 0)
    t = torch.empty((m, ranks), dtype=torch.float32, device=x.device)
    with device_of(x):
        shrink_kernel[(triton.cdiv(m, tile.rows),)](
            x,
            *x.stride(),
            lora_a,
            *lora_a.stride(),
            t,
            m,
            k,
            rank,
            *_dropout(x, seed, dropout),
            BLOCK_M=tile.rows,
            BLOCK_C=tile.columns,
            **_common(x.dtype, ranks, tile),
        )
        y = _expand(t, x.dtype, lora_b.t(), gate, bias, scaling, None, 0.0)
        y.addmm_(x, weight.t())
    return y, t


def backward(
    dy: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    lora_a: torch.Tensor,
    gate: torch.Tensor | None,
    lora_b: torch.Tensor,
    t: torch.Tensor,
    seed: torch.Tensor | None,
    scaling: float,
    dropout: float,
    need_x: bool,
    need_a: bool,
    need_gate: bool,
    need_b: bool,
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Gradients of x, lora_a, gate and lora_b from dy (M, N), each in its own dtype, or None where not needed."""
    (m, k), n, rank = x.shape, dy.shape[1], lora_a.shape[0]
    if not rank or not m or not n or not k:
        return (
            dy @ weight if need_x else None,
            lora_a.new_zeros(lora_a.shape) if need_a else None,
            gate.new_zeros(gate.shape) if need_gate and gate is not None else None,
            lora_b.new_zeros(lora_b.shape) if need_b else None,
        )
    dx = da = dgate = db = v = gate_partial = None
    ranks = t.shape[1]
    with device_of(x):
        if need_x or need_a or need_gate:
            v, gate_partial = _project(dy, lora_b, gate, t, rank, scaling)
        if need_a or need_b or need_gate:
            a_partial, b_partial, parts = _outer(x if need_a else None, v, dy if need_b else None, t, seed, dropout)
            tile = reduce_tile(ranks)
            a_blocks, b_blocks = (triton.cdiv(k, tile.columns) * need_a, triton.cdiv(n, tile.columns) * need_b)
            da = torch.empty(lora_a.shape, dtype=lora_a.dtype, device=x.device) if need_a else None
            db = torch.empty(lora_b.shape, dtype=lora_b.dtype, device=x.device) if need_b else None
            dgate = torch.empty_like(gate) if gate is not None and need_gate else None
            gated = gate is not None
            reduce_kernel[(a_blocks + b_blocks + need_gate,)](
                t if a_partial is None else a_partial,
                t if b_partial is None else b_partial,
                t if gate_partial is None else gate_partial,
                gate if gated else t,
                t if da is None else da,
                t if db is None else db,
                t if dgate is None else dgate,
                k,
                n,
                rank,
                scaling,
                a_blocks,
                b_blocks,
                0 if gate_partial is None else gate_partial.shape[0],
                GATED=gated,
                PARTS=parts,
                BLOCK_C=tile.columns,
                BLOCK_P=GATE_PARTS_AT_ONCE,
                RANK=ranks,
                INTERPRETED=INTERPRETED,
                num_warps=tile.warps,
                num_stages=tile.stages,
            )
        if need_x:
            assert v is not None
            dx = _expand(v, x.dtype, lora_a, None, None, 1.0, seed, dropout)
            dx.addmm_(dy, weight)
    return dx, da, dgate, db


def _project(
    dy: torch.Tensor, lora_b: torch.Tensor, gate: torch.Tensor | None, t: torch.Tensor, rank: int, scaling: float
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """v (M, ranks) in dy's dtype, and the gate's partial sums (blocks of rows, ranks) in float32."""
    m, ranks = t.shape
    tile = shrink_tile(m, ranks, dy.itemsize)
    blocks = triton.cdiv(m, tile.rows)
    v = torch.empty((m, ranks), dtype=dy.dtype, device=dy.device)
    partial = None if gate is None else torch.empty((blocks, ranks), dtype=torch.float32, device=dy.device)
    project_kernel[(blocks,)](
        dy,
        *dy.stride(),
        lora_b,
        *lora_b.stride(),
        v if gate is None else gate,
        t,
        v,
        v if partial is None else partial,
        m,
        dy.shape[1],
        rank,
        scaling,
        GATED=gate is not None,
        BLOCK_M=tile.rows,
        BLOCK_C=tile.columns,
        ALIGNED=math.gcd(lora_b.stride(0), rank, 16),
        **_common(dy.dtype, ranks, tile),
    )
    return v, partial


def _outer(
    x: torch.Tensor | None,
    v: torch.Tensor | None,
    dy: torch.Tensor | None,
    t: torch.Tensor,
    seed: torch.Tensor | None,
    dropout: float,
) -> tuple[torch.Tensor | None, torch.Tensor | None, int]:
    """Partial sums (parts, ranks, K) of vᵀ drop(x) and (parts, ranks, N) of tᵀ dy in float32, and the number of parts."""
    some = x if x is not None else dy
    if some is None:
        return None, None, 1
    (m, ranks), dtype = t.shape, some.dtype
    tile = outer_tile(ranks, dtype.itemsize)
    k, n = 0 if x is None else x.shape[1], 0 if dy is None else dy.shape[1]
    a_blocks, b_blocks = triton.cdiv(k, tile.columns), triton.cdiv(n, tile.columns)
    parts, rows = split_rows(m, a_blocks + b_blocks, tile.rows)
    a_partial, b_partial = (torch.empty((parts, ranks, c), dtype=torch.float32, device=t.device) for c in (k, n))
    x_or_dy, dy_or_x = some if x is None else x, some if dy is None else dy
    outer_kernel[(a_blocks + b_blocks, parts)](
        x_or_dy,
        *x_or_dy.stride(),
        t if v is None else v,
        a_partial,
        k,
        dy_or_x,
        *dy_or_x.stride(),
        t,
        b_partial,
        n,
        m,
        rows,
        a_blocks,
        *_dropout(t, seed, dropout),
        BLOCK_M=tile.rows,
        BLOCK_C=tile.columns,
        **_common(dtype, ranks, tile),
    )
    return a_partial, b_partial, parts


def _expand(
    low: torch.Tensor,
    dtype: torch.dtype,
    factor: torch.Tensor,
    gate: torch.Tensor | None,
    bias: torch.Tensor | None,
    scaling: float,
    seed: torch.Tensor | None,
    dropout: float,
) -> torch.Tensor:
    """low (M, ranks) times scaling · gate ⊙ factor (r, C), plus bias, times the dropout mask -> (M, C) in ``dtype``."""
    (m, ranks), (rank, columns) = low.shape, factor.shape
    tile = expand_tile(dtype.itemsize)
    out = torch.empty((m, columns), dtype=dtype, device=low.device)
    expand_kernel[(triton.cdiv(m, tile.rows), triton.cdiv(columns, tile.columns))](
        low,
        factor,
        factor.stride(1),
        factor.stride(0),
        low if gate is None else gate,
        low if bias is None else bias,
        out,
        m,
        columns,
        rank,
        scaling,
        *_dropout(low, seed, dropout),
        GATED=gate is not None,
        BIASED=bias is not None,
        BLOCK_M=tile.rows,
        BLOCK_C=tile.columns,
        RANK_STEP=rank_step(ranks, dtype.itemsize),
        **_common(dtype, ranks, tile),
    )
    return out


def _dropout(unused: torch.Tensor, seed: torch.Tensor | None, dropout: float) -> tuple[torch.Tensor, int, float, bool]:
    """seed_ptr, threshold, scale and DROPOUT as every kernel takes them (see triton_tiles)."""
    if seed is None or dropout == 0:
        return unused, 0, 1.0, False
    threshold = max(1, round((1 - dropout) * 2**16))
    return seed, threshold, 2**16 / threshold, True


def _common(dtype: torch.dtype, ranks: int, tile: Tile) -> dict[str, Any]:
    return {
        "RANK": ranks,
        "PRECISION": precision(dtype),
        "INTERPRETED": INTERPRETED,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
