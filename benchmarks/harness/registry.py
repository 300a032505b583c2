"""What a benchmark is. A new kernel adds one :class:`Benchmark` in a file of its own and a line in :func:`all_benchmarks`.

A benchmark has workloads (a shape, a dtype); each workload has a base (the layer or model without an adapter, whose memory
is not counted) and contenders that are put onto a base of their own and give a :class:`Step`. ``run.py`` does the rest:
it checks each result before it times anything, interleaves, measures memory in fresh processes and prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from fulgurite.kernels import use_backend

__all__ = [
    "OURS",
    "PYTORCH",
    "Benchmark",
    "Settings",
    "Step",
    "Workload",
    "generator_on",
    "largest_error",
    "norm_error",
    "workloads",
]

OURS = "fulgurite"
# On a GPU ours once more, without Triton: what decides which kernels "auto" takes.
PYTORCH = "fulgurite, PyTorch's kernels"


@dataclass(frozen=True)
class Settings:
    """What the user asked for: the device, and whether models have their full depth, or shapes for a trial only (``toy``)."""

    device: str = "cpu"
    full: bool = False
    toy: bool = False


@dataclass(frozen=True)
class Step:
    """A contender, ready on one workload.

    Attributes:
        run: the step that is timed; returns nothing that is kept.
        results: one untimed run; name of tensor -> what the contender computed (its output and every gradient).
        expected: the same by an independent computation in float64, from the numbers that the contender really holds.
        plain: the same by plain PyTorch in the contender's dtype, whose error is the yardstick; None: ``slack`` alone.
        slack: error that is allowed beyond the yardstick's, in the unit of the benchmark's ``error``.
        facts: what else is worth keeping after the timing (ranks left, say).
    """

    run: Callable[[], Any]
    results: Callable[[], Mapping[str, torch.Tensor]]
    expected: Callable[[], Mapping[str, torch.Tensor]]
    plain: Callable[[], Mapping[str, torch.Tensor]] | None = None
    slack: float = 1e-5
    facts: Callable[[], Mapping[str, Any]] = dict


@dataclass(frozen=True)
class Workload:
    """One shape and dtype.

    Attributes:
        name: how tables call it.
        facts: shapes and settings, for the results file.
        base: makes the layer or model without an adapter, with its batch.
        contenders: name -> what puts that contender onto a base and returns its step, or a sentence why it cannot run here.
        floor: the contender that the others are compared with; it trains nothing.
        floor_bytes: bytes that the step has to move at the least, None where nobody worked it out.
        runs_per_sample: runs that one sample averages over (for steps of microseconds).
        memory: whether peak memory is measured.
        whole: 0, or the number of steps of a training that is timed as a whole, each step by everybody in turn.
        graph: on a GPU, time replays of a CUDA graph of the step: what the kernels take, without the latency of launches, which
            a training that runs ahead of the GPU does not wait for.
    """

    name: str
    facts: Mapping[str, Any]
    base: Callable[[], Any]
    contenders: Mapping[str, Callable[[Any], Step] | str]
    floor: str | None = "frozen"
    floor_bytes: int | None = None
    runs_per_sample: int = 1
    memory: bool = True
    whole: int = 0
    graph: bool = False


@dataclass(frozen=True)
class Benchmark:
    """An entry of the suite.

    Attributes:
        name: what is typed behind ``python -m benchmarks.run``.
        about: one sentence: what is timed.
        workloads: the workloads for these settings.
        error: (computed, expected) -> one number, 0 for equal; how far a result is from the truth.
        samples: how many samples are taken unless told otherwise, at least 20.
    """

    name: str
    about: str
    workloads: Callable[[Settings], list[Workload]]
    error: Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], float]
    samples: int = 20


def generator_on(device: str, seed: int = 0) -> torch.Generator:
    """For random numbers that are drawn where they are needed: a CPU takes seconds for the head of a large vocabulary."""
    return torch.Generator(device).manual_seed(seed)


def workloads(benchmark: Benchmark, settings: Settings) -> list[Workload]:
    """The benchmark's workloads; on a GPU with :data:`PYTORCH` as a further contender wherever we are one."""
    found = benchmark.workloads(settings)
    if not settings.device.startswith("cuda"):
        return found
    return [replace(workload, contenders=_with_pytorch(workload.contenders)) for workload in found]


def _with_pytorch(contenders: Mapping[str, Callable[[Any], Step] | str]) -> dict[str, Callable[[Any], Step] | str]:
    ours = contenders.get(OURS)
    if ours is None or isinstance(ours, str):
        return dict(contenders)

    def prepare(base: Any) -> Step:
        with use_backend("torch"):
            step = ours(base)
        return replace(step, run=_without_triton(step.run), results=_without_triton(step.results))

    return {**contenders, PYTORCH: prepare}


def _without_triton(function: Callable[[], Any]) -> Callable[[], Any]:
    def call() -> Any:
        with use_backend("torch"):
            return function()

    return call


def largest_error(computed: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """The largest |computed − expected| relative to the largest |expected|, over all tensors; inf for a missing or NaN one."""
    worst = 0.0
    for name, truth in expected.items():
        if name not in computed:
            return float("inf")
        truth = truth.double()
        error = (computed[name].double() - truth).abs().max() / truth.abs().max().clamp(min=1e-30)
        worst = max(worst, float(error)) if bool(torch.isfinite(error)) else float("inf")
    return worst


def norm_error(computed: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> float:
    """‖computed − expected‖ / ‖expected‖ over all gradients together (some true gradients are zero); ``loss`` for itself."""
    if computed.keys() != expected.keys():
        return float("inf")
    grads = [name for name in expected if name != "loss"]
    square = sum(float((computed[n].double() - expected[n].double()).square().sum()) for n in grads)
    norm = sum(float(expected[n].double().square().sum()) for n in grads)
    worst = (square / max(norm, 1e-60)) ** 0.5 if grads else 0.0
    if "loss" in expected:
        loss = float(expected["loss"].double())
        worst = max(worst, abs(float(computed["loss"].double()) - loss) / max(abs(loss), 1e-30))
    return worst if worst == worst else float("inf")
