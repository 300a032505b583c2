"""Log-probabilities of blended logits in Triton: one kernel over the rows of a chunk of all specialists' logits.

The vendor's GEMMs write a chunk's raw logits, E specialists × tokens × columns. One pass of the kernel makes the blend, its online
maximum and sum, and Σ exp(z) l_e of every specialist, which is all that the gate's gradient needs; a second pass of the same
program, where a specialist is trained, writes w_e · scale_e · (onehot − p) · slope_e over its logits, and what follows are
GEMMs. The target's own column is left out of the sums as in :mod:`fulgurite.kernels.log_probs.triton_kernel`; there are no atomics.

A program holds NUMBER (E rounded up to a power of two) × BLOCK numbers at a time; rows beyond E are masked and read nothing.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl

from fulgurite.kernels.fusion.blocks import FusedOutcome, Gradients, Specialist
from fulgurite.kernels.log_probs.outcome import Known, Needs
from fulgurite.kernels.log_probs.products import part_of, plus_product, raw_logits, wide_product
from fulgurite.kernels.log_probs.triton_kernel import DTYPES, MIN_HEIGHT, MIN_WIDTH, _log1p, _missing
from fulgurite.kernels.triton_common import rounded

__all__ = ["INTERPRETED", "fused_log_probs", "fused_log_probs_kernel", "refusal"]

# Numbers of one specialist that a program holds at a time, by how many specialists there are, and its warps. A warp for each 512
# bytes of a specialist lets a thread hold the same columns of all of them, and sums over specialists stay within it (twice as
# many warps took four times as long on an H200). Eight specialists would spill so.
BLOCKS = {1: 1024, 2: 512, 4: 1024}
BYTES_PER_WARP, WARPS = 512, 8
# Numbers of a chunk of all specialists beyond its least height: 192 MiB of bfloat16 at three times 32,000 columns.
CHUNK = 1 << 26


@triton.jit
def _capped(raw, scale, cap, CAPPED: tl.constexpr):
    """Logits from raw products; a specialist with cap 0 has none."""
    z = raw * scale
    if CAPPED:
        bound = tl.where(cap > 0.0, cap, 1.0)
        z = tl.where(cap > 0.0, bound * (2.0 * tl.sigmoid(2.0 * z / bound) - 1.0), z)
    return z


@triton.jit(do_not_specialize=["first_column", "number"])
def fused_log_probs_kernel(
    logits_ptr,
    specialist_stride,
    row_stride,
    gate_ptr,
    scale_ptr,
    cap_ptr,
    target_ptr,
    coefficient_ptr,
    log_prob_ptr,
    ref_ptr,
    share_ptr,
    slope_ptr,
    first_column,
    columns,
    number,
    KNOWN: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr,
    CAPPED: tl.constexpr,
    NUMBER: tl.constexpr,
    BLOCK: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """A token's statistics and ∂log p/∂w (``KNOWN``: read instead), then, if ``GRADIENT``, gradients in the logits' place."""
    row = tl.program_id(0).to(tl.int64)
    who = tl.arange(0, NUMBER)
    there = who < number
    weight = tl.load(gate_ptr + row * number + who, there, other=0.0)
    scale = tl.load(scale_ptr + who, there, other=0.0)
    cap = tl.load(cap_ptr + who, there, other=0.0)
    starts = logits_ptr + who.to(tl.int64) * specialist_stride + row * row_stride
    target = tl.load(target_ptr + row) - first_column
    offsets = tl.arange(0, BLOCK)
    if KNOWN:
        log_prob = tl.load(log_prob_ptr + row)
        ref = tl.load(ref_ptr + row)
        share = tl.load(share_ptr + row)
    else:
        own = _capped(tl.load(starts + target, there, other=0.0).to(tl.float32), scale, cap, CAPPED)
        at_target = tl.sum(weight * own, axis=0)
        top = -3.0e38
        total = tl.zeros((BLOCK,), tl.float32)
        moments = tl.zeros((NUMBER, BLOCK), tl.float32)
        for first in range(0, columns, BLOCK):
            places = first + offsets
            mask = (places < columns) & (places != target)
            inside = there[:, None] & mask[None, :]
            raw = tl.load(starts[:, None] + places[None, :], inside, other=0.0).to(tl.float32)
            logits = _capped(raw, scale[:, None], cap[:, None], CAPPED)
            z = tl.where(mask, tl.sum(weight[:, None] * logits, axis=0), float("-inf"))
            new = tl.maximum(top, tl.max(z, axis=0))
            ratio = tl.exp(top - new)
            exponential = tl.exp(tl.maximum(z - new, -1.0e30))
            total = total * ratio + exponential
            moments = moments * ratio + exponential[None, :] * logits
            top = new
        sum_of_others = tl.sum(total, axis=0)
        ref = top
        gap = tl.log(sum_of_others) - (at_target - ref)
        log_prob = -(tl.maximum(gap, 0.0) + _log1p(tl.exp(-tl.abs(gap))))
        share = tl.where(sum_of_others > 0.0, _missing(log_prob) / sum_of_others, 0.0)
        expected = tl.sum(moments, axis=1) * share
        tl.store(log_prob_ptr + row, log_prob)
        tl.store(ref_ptr + row, ref)
        tl.store(share_ptr + row, share)
        slope = tl.where(sum_of_others > 0.0, _missing(log_prob) * own - expected, 0.0)
        tl.store(slope_ptr + row * number + who, slope, there)
    if GRADIENT:
        missing = _missing(log_prob)
        factor = weight * scale
        if WEIGHTED:
            factor = factor * tl.load(coefficient_ptr + row)
        for first in range(0, columns, BLOCK):
            places = first + offsets
            mask = places < columns
            inside = there[:, None] & mask[None, :]
            raw = tl.load(starts[:, None] + places[None, :], inside, other=0.0).to(tl.float32)
            logits = _capped(raw, scale[:, None], cap[:, None], CAPPED)
            z = tl.sum(weight[:, None] * logits, axis=0)
            common = tl.where(places == target, missing, -share * tl.exp(z - ref))
            grad = factor[:, None] * common[None, :]
            if CAPPED:
                bound = tl.where(cap > 0.0, cap, 1.0)[:, None]
                bend = tl.where(cap[:, None] > 0.0, logits / bound, 0.0)
                grad = grad * (1.0 - bend * bend)
            tl.store(starts[:, None] + places[None, :], rounded(grad, logits_ptr.dtype.element_ty, INTERPRETED), inside)


# The interpreter runs the kernels on the CPU (TRITON_INTERPRET=1 when they are imported); see triton_tiles.
INTERPRETED = not isinstance(fused_log_probs_kernel, triton.JITFunction)


def refusal(*tensors: torch.Tensor | None) -> str | None:
    """Why these tensors (rows, low, weight, bias, up of each specialist) cannot be computed here, or None."""
    rows = tensors[0]
    if rows is not None and rows.dtype not in DTYPES:
        return f"hidden is {rows.dtype}; the Triton kernel takes bfloat16, float16 and float32"
    return None


def fused_log_probs(
    specialists: Sequence[Specialist],
    weights: torch.Tensor,
    targets: torch.Tensor,
    known: Known | None,
    coefficient: torch.Tensor | None,
    needs: Sequence[Needs],
) -> FusedOutcome:
    """As :func:`fulgurite.kernels.fusion.blocks.fused_log_probs`, whose docstring holds for this one."""
    rows = specialists[0].rows
    half, unit = rows.dtype == torch.float16, None
    if half and coefficient is not None and coefficient.numel():
        # Gradients that are yet to be scaled up would fall below float16's range: at their largest they are 1 here.
        unit = coefficient.abs().amax().clamp(min=1e-30)
        coefficient = coefficient / unit
    ready = [
        s if s.head.up is None else s._replace(head=s.head._replace(up=s.head.up.to(s.rows.dtype))) for s in specialists
    ]
    with torch.cuda.device(rows.device) if rows.is_cuda else nullcontext():
        if known is None:
            found = _by_tokens(ready, weights.contiguous(), targets, coefficient, needs)
        else:
            found = _by_columns(ready, weights.contiguous(), targets, known, coefficient, needs)
    if not half:
        return found
    grown = tuple(
        Gradients(*(None if g is None else g.float() if unit is None else g.float().mul_(unit) for g in each))
        for each in found.gradients
    )
    return found._replace(gradients=grown)


def _by_tokens(specialists, weights, targets, coefficient, needs) -> FusedOutcome:
    """Chunks of tokens × the whole vocabulary; gradients of hidden states and of the branches' inner values only."""
    rows, vocabulary = specialists[0].rows, specialists[0].head.weight.shape[0]
    count, number = rows.shape[0], len(specialists)
    height = max(1, min(count, max(MIN_HEIGHT, CHUNK // (number * vocabulary))))
    log_probs, ref, share = (rows.new_empty(count, dtype=torch.float32) for _ in range(3))
    slopes = rows.new_empty(count, number, dtype=torch.float32)
    d_rows = [rows.new_empty(s.rows.shape) if need.rows else None for s, need in zip(specialists, needs, strict=True)]
    d_low = [rows.new_empty(s.low.shape) if need.low else None for s, need in zip(specialists, needs, strict=True)]
    memory = rows.new_empty(number, height, vocabulary)
    settings = _settings(specialists)
    for first in range(0, count, height):
        chunk = slice(first, min(first + height, count))
        tiles = memory[:, : chunk.stop - first]
        for s, tile in zip(specialists, tiles, strict=True):
            raw_logits(s.rows[chunk], None if s.low is None else s.low[chunk], s.head, tile)
        weighing = None if coefficient is None else coefficient[chunk]
        out = (log_probs[chunk], ref[chunk], share[chunk], slopes[chunk])
        _launch(tiles, weights[chunk], settings, targets[chunk], weighing, out, 0, False, any(map(any, needs)))
        for s, tile, wide, low in zip(specialists, tiles, d_rows, d_low, strict=True):
            if wide is not None:
                torch.mm(tile, s.head.weight, out=wide[chunk])
            if low is not None:
                torch.mm(tile, s.head.up, out=low[chunk])
    gradients = tuple(Gradients(wide, low, None, None, None) for wide, low in zip(d_rows, d_low, strict=True))
    return FusedOutcome(log_probs, ref, share, slopes, gradients)


def _by_columns(specialists, weights, targets, known, coefficient, needs) -> FusedOutcome:
    """All tokens × chunks of the vocabulary, gradients only; each row of ∂W is one product over all tokens."""
    rows, vocabulary = specialists[0].rows, specialists[0].head.weight.shape[0]
    count, number = rows.shape[0], len(specialists)
    width = min(vocabulary, max(MIN_WIDTH, CHUNK // max(number * count, 1)))
    half = rows.dtype == torch.float16
    out = torch.float32 if half else rows.dtype
    sums_rows: list[Any] = [None] * number
    sums_low: list[Any] = [None] * number
    make = lambda like, wanted, dtype: rows.new_zeros(like.shape, dtype=dtype) if wanted else None  # noqa: E731
    pairs = list(zip(specialists, needs, strict=True))
    d_weight: list[Any] = [make(s.head.weight, need.weight, out) for s, need in pairs]
    d_bias: list[Any] = [make(s.head.bias, need.bias, torch.float32) for s, need in pairs]
    d_up: list[Any] = [make(s.head.up, need.up, torch.float32) for s, need in pairs]
    memory = rows.new_empty(number * count * width)
    settings = _settings(specialists)
    for start in range(0, vocabulary, width):
        columns = slice(start, min(start + width, vocabulary))
        size = count * (columns.stop - start)
        tiles = memory[: number * size].view(number, count, columns.stop - start)
        parts = [part_of(s.head, columns) for s in specialists]
        for s, part, tile in zip(specialists, parts, tiles, strict=True):
            raw_logits(s.rows, s.low, part, tile)
        nowhere = (*known, weights)
        _launch(tiles, weights, settings, targets, coefficient, nowhere, start, True, True)
        for i, ((s, need), part, tile) in enumerate(zip(pairs, parts, tiles, strict=True)):
            if need.rows:
                sums_rows[i] = plus_product(sums_rows[i], tile, part.weight, torch.float32)
            if need.low:
                sums_low[i] = plus_product(sums_low[i], tile, part.up, torch.float32)
            if need.weight:
                d_weight[i][columns] = wide_product(tile.t(), s.rows) if half else tile.t() @ s.rows
            if need.bias:
                torch.sum(tile, 0, dtype=torch.float32, out=d_bias[i][columns])
            if need.up:
                d_up[i][columns] = wide_product(tile.t(), s.low)
    cast = lambda gradient: None if gradient is None else gradient.to(out)  # noqa: E731
    gradients = tuple(
        Gradients(cast(wide), cast(low), weight, cast(bias), up)
        for wide, low, weight, bias, up in zip(sums_rows, sums_low, d_weight, d_bias, d_up, strict=True)
    )
    return FusedOutcome(known.log_probs, known.ref, known.share, None, gradients)


def _settings(specialists) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Scales and caps (E,) on the device, and whether there is a cap at all."""
    device = specialists[0].rows.device
    scales = torch.tensor([s.head.logit_scale for s in specialists], dtype=torch.float32, device=device)
    caps = torch.tensor([s.head.softcap or 0.0 for s in specialists], dtype=torch.float32, device=device)
    return scales, caps, any(s.head.softcap is not None for s in specialists)


def _launch(tiles, weights, settings, targets, coefficient, out, first_column, known, gradient) -> None:
    """The kernel over every token of ``tiles`` (E, tokens, columns); ``out``: log_probs, ref, share, slopes."""
    number, count, columns = tiles.shape
    if not count:
        return
    scales, caps, capped = settings
    padded = triton.next_power_of_2(number)
    block = min(BLOCKS.get(padded, max(16, 4096 // padded)), triton.next_power_of_2(columns))
    warps = block * tiles.itemsize // BYTES_PER_WARP if padded in BLOCKS else WARPS
    log_probs, ref, share, slopes = out
    fused_log_probs_kernel[(count,)](
        tiles,
        tiles.stride(0),
        tiles.stride(1),
        weights,
        scales,
        caps,
        targets,
        ref if coefficient is None else coefficient,
        log_probs,
        ref,
        share,
        slopes,
        first_column,
        columns,
        number,
        KNOWN=known,
        WEIGHTED=coefficient is not None,
        GRADIENT=gradient,
        CAPPED=capped,
        NUMBER=padded,
        BLOCK=block,
        INTERPRETED=INTERPRETED,
        num_warps=max(1, min(WARPS, warps)),
    )
