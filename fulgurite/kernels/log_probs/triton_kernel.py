"""Log-probabilities under an output head in Triton: one kernel over the rows of a chunk of logits, between the vendor's GEMMs.

The statistics of a row are one pass (online maximum and sum, Milakov & Gimelshein 2018, arXiv 1805.02867); its gradient,
(onehot − softmax) times the slope of the cap and the token's coefficient, is written over the logits in a second pass of
the same program, while the row is in the cache. What follows are GEMMs on that chunk. As in
:mod:`fulgurite.kernels.log_probs.blocks` the target's own column is left out of the sums, log p = −log(1 + e^(others − z_y)),
so that a confident token's gradient does not cancel; there are no atomics, and two runs agree bit for bit.

Without a known normaliser a chunk is some tokens × the whole vocabulary. With one (the backward of a trained head) it is
all tokens × some columns, so that each row of ∂W is one product over all tokens and rounded once.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl

from fulgurite.kernels.log_probs.outcome import Outcome, Request
from fulgurite.kernels.log_probs.products import Head, part_of, plus_product, raw_logits, wide_product
from fulgurite.kernels.triton_common import rounded

__all__ = ["INTERPRETED", "linear_log_probs", "log_probs_kernel", "refusal"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# One program of 8 warps holds 8 numbers of a row per thread at a time (an H200 took 5 to 8 % longer at 4096).
BLOCK, WARPS = 2048, 8
# Tokens of a chunk: fewer than 1024 starve the GEMMs (Liger Kernel, pull request 1472: tokens per chunk decide), and where the
# head is trained each further chunk reads and writes all of ∂W.
MIN_HEIGHT = 1024
# Numbers of a chunk beyond its least height: 64 MiB of bfloat16.
CHUNK = 1 << 25
# Rows of ∂W whose float32 product is there at once.
SLICE = 8192
# Least columns of a chunk of all tokens.
MIN_WIDTH = 1024


@triton.jit
def _capped(raw, scale, softcap, CAPPED: tl.constexpr):
    """Logits from the raw products; tanh by the sigmoid, to 6e-8 of softcap."""
    z = raw * scale
    if CAPPED:
        z = softcap * (2.0 * tl.sigmoid(2.0 * z / softcap) - 1.0)
    return z


@triton.jit
def _log1p(x):
    """log(1 + x) for x in [0, 1], also where 1 + x rounds to 1."""
    return tl.where(x < 1e-3, x - 0.5 * x * x + x * x * x / 3.0, tl.log(1.0 + x))


@triton.jit
def _missing(log_prob):
    """1 − exp(log_prob) for log_prob ≤ 0, also where exp rounds to 1."""
    series = -log_prob * (1.0 + 0.5 * log_prob + log_prob * log_prob / 6.0)
    return tl.where(log_prob > -1e-2, series, 1.0 - tl.exp(log_prob))


@triton.jit(do_not_specialize=["first_column"])
def log_probs_kernel(
    logits_ptr,
    row_stride,
    target_ptr,
    coefficient_ptr,
    log_prob_ptr,
    ref_ptr,
    share_ptr,
    correct_ptr,
    entropy_ptr,
    first_column,
    columns,
    scale,
    softcap,
    KNOWN: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GRADIENT: tl.constexpr,
    SCORES: tl.constexpr,
    CAPPED: tl.constexpr,
    BLOCK: tl.constexpr,
    INTERPRETED: tl.constexpr,
):
    """A row's statistics (``KNOWN``: read instead), then, if ``GRADIENT``, its gradient in the logits' place."""
    row = tl.program_id(0).to(tl.int64)
    start = logits_ptr + row * row_stride
    target = tl.load(target_ptr + row) - first_column
    offsets = tl.arange(0, BLOCK)
    if KNOWN:
        log_prob = tl.load(log_prob_ptr + row)
        ref = tl.load(ref_ptr + row)
        share = tl.load(share_ptr + row)
    else:
        at_target = _capped(tl.load(start + target).to(tl.float32), scale, softcap, CAPPED)
        top = -3.0e38
        best = target
        total = tl.zeros((BLOCK,), tl.float32)
        surprise = tl.zeros((BLOCK,), tl.float32)
        for first in range(0, columns, BLOCK):
            places = first + offsets
            mask = (places < columns) & (places != target)
            z = _capped(tl.load(start + places, mask, other=0.0).to(tl.float32), scale, softcap, CAPPED)
            z = tl.where(mask, z, float("-inf"))
            block_top = tl.max(z, axis=0)
            new = tl.maximum(top, block_top)
            if SCORES:
                place = tl.min(tl.where(z == block_top, places, columns), axis=0)
                best = tl.where(block_top > top, place.to(tl.int64), best)
                surprise += (top - new) * total
            ratio = tl.exp(top - new)
            distance = tl.maximum(z - new, -1.0e30)
            exponential = tl.exp(distance)
            total = total * ratio + exponential
            if SCORES:
                surprise = surprise * ratio + exponential * distance
            top = new
        sum_of_others = tl.sum(total, axis=0)
        ref = top
        gap = tl.log(sum_of_others) - (at_target - ref)
        log_prob = -(tl.maximum(gap, 0.0) + _log1p(tl.exp(-tl.abs(gap))))
        share = tl.where(sum_of_others > 0.0, _missing(log_prob) / sum_of_others, 0.0)
        tl.store(log_prob_ptr + row, log_prob)
        tl.store(ref_ptr + row, ref)
        tl.store(share_ptr + row, share)
        if SCORES:
            correct = (at_target > top) | ((at_target == top) & (target < best))
            own = tl.where(log_prob > -1.0e30, tl.exp(log_prob) * log_prob, 0.0)
            level = tl.where(share > 0.0, tl.log(share), 0.0)
            spread = share * (tl.sum(surprise, axis=0) + level * sum_of_others)
            tl.store(correct_ptr + row, correct.to(tl.int64))
            tl.store(entropy_ptr + row, -(spread + own))
    if GRADIENT:
        missing = _missing(log_prob)
        coefficient = scale
        if WEIGHTED:
            coefficient = scale * tl.load(coefficient_ptr + row)
        for first in range(0, columns, BLOCK):
            places = first + offsets
            mask = places < columns
            z = _capped(tl.load(start + places, mask, other=0.0).to(tl.float32), scale, softcap, CAPPED)
            grad = tl.where(places == target, missing, -share * tl.exp(z - ref)) * coefficient
            if CAPPED:
                slope = z / softcap
                grad = grad * (1.0 - slope * slope)
            tl.store(start + places, rounded(grad, logits_ptr.dtype.element_ty, INTERPRETED), mask)


# The interpreter runs the kernels on the CPU (TRITON_INTERPRET=1 when they are imported); see triton_tiles.
INTERPRETED = not isinstance(log_probs_kernel, triton.JITFunction)


def refusal(
    rows: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    low: torch.Tensor | None,
    up: torch.Tensor | None,
) -> str | None:
    """Why these tensors cannot be computed here (what was given; what is allowed), or None."""
    if rows.dtype not in DTYPES:
        return f"hidden is {rows.dtype}; the Triton kernel takes bfloat16, float16 and float32"
    return None


def linear_log_probs(
    rows: torch.Tensor,
    low: torch.Tensor | None,
    head: Head,
    targets: torch.Tensor,
    request: Request,
) -> Outcome:
    """As :func:`fulgurite.kernels.log_probs.blocks.linear_log_probs`, whose docstring holds for this one."""
    known, coefficient, needs, scores = request
    unit = None
    if coefficient is not None and rows.dtype == torch.float16:
        # Gradients that are yet to be scaled up would fall below float16's range: at their largest they are 1 here.
        unit = coefficient.abs().amax().clamp(min=1e-30) if coefficient.numel() else None
        coefficient = coefficient if unit is None else coefficient / unit
    if head.up is not None:
        head = head._replace(up=head.up.to(rows.dtype))
    with torch.cuda.device(rows.device) if rows.is_cuda else nullcontext():
        if known is None:
            found = _by_tokens(rows, low, head, targets, coefficient, needs, scores)
        else:
            found = _by_columns(rows, low, head, targets, known, coefficient, needs)
    if rows.dtype != torch.float16:
        return found
    grown = (None if g is None else g.float() if unit is None else g.float().mul_(unit) for g in found[3:8])
    return found._replace(**dict(zip(Outcome._fields[3:8], grown, strict=True)))


def _by_tokens(rows, low, head, targets, coefficient, needs, scores) -> Outcome:
    """Chunks of tokens × the whole vocabulary."""
    count, vocabulary = rows.shape[0], head.weight.shape[0]
    least = max(MIN_HEIGHT, rows.shape[1]) if needs.weight else MIN_HEIGHT
    height = max(1, min(count, max(least, CHUNK // vocabulary)))
    log_probs, ref, share, entropy = (rows.new_empty(count, dtype=torch.float32) for _ in range(4))
    correct = torch.empty_like(targets) if scores else targets
    d_rows = torch.empty_like(rows, memory_format=torch.contiguous_format) if needs.rows else None
    d_low = torch.empty_like(low) if needs.low else None
    several = count > height or rows.dtype == torch.float16  # whose sums over tokens may leave its range
    sums = torch.float32 if several else rows.dtype
    d_weight = rows.new_zeros(head.weight.shape, dtype=sums) if needs.weight else None
    d_bias = rows.new_zeros(vocabulary, dtype=torch.float32) if needs.bias else None
    d_up = rows.new_zeros(head.up.shape, dtype=torch.float32) if needs.up else None
    memory = rows.new_empty(height, vocabulary)
    for first in range(0, count, height):
        chunk = slice(first, min(first + height, count))
        tile, mine = memory[: chunk.stop - first], rows[chunk]
        inner = None if low is None else low[chunk]
        raw_logits(mine, inner, head, tile)
        weighing = None if coefficient is None else coefficient[chunk]
        out = (log_probs[chunk], ref[chunk], share[chunk], correct[chunk], entropy[chunk])
        _launch(tile, targets[chunk], weighing, out, 0, head, False, any(needs), scores)
        if d_rows is not None:
            torch.mm(tile, head.weight, out=d_rows[chunk])
        if d_low is not None:
            torch.mm(tile, head.up, out=d_low[chunk])
        if d_weight is not None and not several:
            torch.mm(tile.t(), mine, out=d_weight)
        elif d_weight is not None:
            for start in range(0, vocabulary, SLICE):
                part = slice(start, min(start + SLICE, vocabulary))
                d_weight[part].add_(wide_product(tile[:, part].t(), mine))
        if d_bias is not None:
            d_bias.add_(tile.sum(0, dtype=torch.float32))
        if d_up is not None:
            d_up.add_(wide_product(tile.t(), inner))
    memory = tile = None  # or the chunk would be alive beside both copies of ∂W below
    out_dtype = torch.float32 if rows.dtype == torch.float16 else rows.dtype
    return Outcome(
        log_probs,
        ref,
        share,
        d_rows,
        d_low,
        None if d_weight is None else d_weight.to(out_dtype),
        None if d_bias is None else d_bias.to(out_dtype),
        d_up,
        correct.bool() if scores else None,
        entropy if scores else None,
    )


def _by_columns(rows, low, head, targets, known, coefficient, needs) -> Outcome:
    """All tokens × chunks of the vocabulary, gradients only."""
    count, vocabulary = rows.shape[0], head.weight.shape[0]
    width = min(vocabulary, max(MIN_WIDTH, 2 * CHUNK // max(count, 1)))
    sum_rows = sum_low = None
    half = rows.dtype == torch.float16
    out = torch.float32 if half else rows.dtype
    d_weight = rows.new_zeros(head.weight.shape, dtype=out) if needs.weight else None
    d_bias = rows.new_zeros(vocabulary, dtype=torch.float32) if needs.bias else None
    d_up = rows.new_zeros(head.up.shape, dtype=torch.float32) if needs.up else None
    memory = rows.new_empty(count * width)
    for start in range(0, vocabulary, width):
        columns = slice(start, min(start + width, vocabulary))
        part = part_of(head, columns)
        tile = memory[: count * (columns.stop - start)].view(count, columns.stop - start)
        raw_logits(rows, low, part, tile)
        _launch(tile, targets, coefficient, (*known, targets, known.ref), start, head, True, True, False)
        if needs.rows:
            sum_rows = plus_product(sum_rows, tile, part.weight, torch.float32)
        if needs.low:
            sum_low = plus_product(sum_low, tile, part.up, torch.float32)
        if d_weight is not None:
            d_weight[columns] = wide_product(tile.t(), rows) if half else tile.t() @ rows
        if d_bias is not None:
            torch.sum(tile, 0, dtype=torch.float32, out=d_bias[columns])
        if d_up is not None:
            d_up[columns] = wide_product(tile.t(), low)
    cast = lambda gradient: None if gradient is None else gradient.to(out)  # noqa: E731
    return Outcome(None, None, None, cast(sum_rows), cast(sum_low), cast(d_weight), cast(d_bias), d_up)


def _launch(tile, targets, coefficient, out, first_column, head, known, gradient, scores) -> None:
    """The kernel over every row of ``tile``; ``out``: log_probs, ref, share, correct, entropy."""
    count, columns = tile.shape
    if not count:
        return
    block = min(BLOCK, triton.next_power_of_2(columns))
    log_probs, ref, share, correct, entropy = out
    log_probs_kernel[(count,)](
        tile,
        tile.stride(0),
        targets,
        ref if coefficient is None else coefficient,
        log_probs,
        ref,
        share,
        correct,
        entropy,
        first_column,
        columns,
        float(head.logit_scale),
        float(head.softcap or 1.0),
        KNOWN=known,
        WEIGHTED=coefficient is not None,
        GRADIENT=gradient,
        SCORES=scores,
        CAPPED=head.softcap is not None,
        BLOCK=block,
        INTERPRETED=INTERPRETED,
        num_warps=WARPS if 2 * block >= BLOCK else 4,
    )
