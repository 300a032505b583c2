"""Picking selected numbers out of a chunk of rows in Triton: one launch instead of PyTorch's three.

The dense method of sparse gradients multiplies a whole chunk and keeps only these numbers.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from contextlib import nullcontext

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

__all__ = ["pick_kernel", "picked_entries", "refusal", "why_not_early"]

BLOCK, WARPS = 1024, 4
# Whether programs start before the product has ended and wait for it behind their first load (programmatic dependent launch).
# Not before a GPU has shown that it wins: ``python -m benchmarks.run sparse_gradient --device cuda`` times both.
EARLY = False


@triton.jit(do_not_specialize=["first", "last", "offset"])
def pick_kernel(chunk_ptr, index_ptr, out_ptr, first, last, offset, BLOCK: tl.constexpr, EARLY: tl.constexpr):
    """out[i] = chunk[index[i] − offset] in float32, for first ≤ i < last.

    With EARLY a program may start before the product that fills the chunk has ended, and waits for it after reading its indices.
    """
    places = first + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = places < last
    at = tl.load(index_ptr + places, mask, other=0) - offset
    if EARLY:
        gdc_wait()  # until here a program neither reads what the product writes nor writes what others read
    tl.store(out_ptr + places, tl.load(chunk_ptr + at, mask, other=0.0).to(tl.float32), mask)


def refusal(chunk: torch.Tensor) -> str | None:
    """Why numbers of this dtype cannot be picked here, or None."""
    if chunk.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return f"the product is {chunk.dtype}; the Triton kernel takes bfloat16, float16 and float32"
    return None


def why_not_early(device: torch.device) -> str | None:
    """Why programs cannot start before the product has ended there, or None."""
    there = device.type == "cuda" and torch.cuda.is_available() and not torch.version.hip
    if not there or torch.cuda.get_device_capability(device) < (9, 0):
        return "needs an NVIDIA GPU of compute capability 9.0 or above"
    return None


def picked_entries(
    chunk: torch.Tensor, index: torch.Tensor, out: torch.Tensor, first: int, last: int, offset: int
) -> None:
    """Write out[first:last] = chunk.flatten()[index[first:last] − offset].

    Args:
        chunk: contiguous, bfloat16, float16 or float32.
        index: (n,) int64, contiguous.
        out: (n,) float32, contiguous.
        first: where the chunk's entries begin.
        last: where they end.
        offset: position of the chunk's first number.
    """
    with torch.cuda.device(chunk.device) if chunk.is_cuda else nullcontext():
        grid = (triton.cdiv(last - first, BLOCK),)
        early = EARLY and why_not_early(chunk.device) is None
        options = {"launch_pdl": True} if early else {}
        pick_kernel[grid](chunk, index, out, first, last, offset, BLOCK=BLOCK, EARLY=early, num_warps=WARPS, **options)
