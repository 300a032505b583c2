"""Interleaved timing: one sample of every contender in turn, in a new order each round, and what is said about the samples.

Speeds drift (clock, neighbours on the machine), so contenders that ran one after the other would be compared across the
drift. Each round times everybody once; ratios are medians of the rounds' own ratios. A number of samples is prescribed and not
a time: a window of milliseconds holds a single sample of a slow step, and its percentiles are then one number.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

__all__ = ["MIN_SAMPLES", "graph_of", "interleave", "percentile", "summary", "tied", "whole_time"]

MIN_SAMPLES = 20


def interleave(
    steps: Mapping[str, Callable[[], Any]], samples: int, device: str, *, runs_per_sample: int = 1, warmup: int = 3
) -> dict[str, list[float]]:
    """Milliseconds per run of each contender, ``samples`` of them.

    Args:
        steps: what to time, by contender.
        samples: rounds that are kept.
        device: "cpu" or "cuda"; CUDA is timed with events.
        runs_per_sample: runs that one sample averages over.
        warmup: rounds thrown away.
    """
    timer = _time_cuda if device.startswith("cuda") else _time_cpu
    taken: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for round_ in range(warmup + samples):
        shuffle(order)
        for name in order:
            elapsed = timer(steps[name], runs_per_sample)
            if round_ >= warmup:
                taken[name].append(elapsed)
    return taken


def whole_time(taken: Mapping[str, list[float]], slices: int = MIN_SAMPLES) -> dict[str, list[float]]:
    """Milliseconds of a whole training, once from each of ``slices`` interleaved slices of its steps."""
    return {
        name: [sum(part) * len(steps) / len(part) for part in (steps[i::slices] for i in range(slices))]
        for name, steps in taken.items()
    }


def graph_of(step: Callable[[], Any]) -> Callable[[], Any]:
    """Replays of a CUDA graph of ``step``, captured after two runs (which compile and prepare what is made once)."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def summary(samples: list[float], floor: list[float] | None) -> dict[str, Any]:
    """Median, p20 and p80 in ms, and the ratio to the floor's sample of the same round (median, p20, p80)."""
    result: dict[str, Any] = {
        "median_ms": percentile(samples, 50),
        "p20_ms": percentile(samples, 20),
        "p80_ms": percentile(samples, 80),
        "samples_ms": [round(value, 5) for value in samples],
    }
    if floor is not None:
        ratios = [a / b for a, b in zip(samples, floor, strict=True)]
        result |= {f"ratio_p{q}" if q != 50 else "ratio": percentile(ratios, q) for q in (50, 20, 80)}
    return result


def tied(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether either median lies within the other's p20 to p80: then neither has won."""
    return (
        other["p20_ms"] <= one["median_ms"] <= other["p80_ms"] or one["p20_ms"] <= other["median_ms"] <= one["p80_ms"]
    )


def percentile(values: list[float], q: float) -> float:
    """The q-th percentile, interpolated."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * q / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def _time_cpu(step: Callable[[], Any], runs: int) -> float:
    start = time.perf_counter()
    for _ in range(runs):
        step()
    return (time.perf_counter() - start) * 1e3 / runs


def _time_cuda(step: Callable[[], Any], runs: int) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    for _ in range(runs):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / runs
