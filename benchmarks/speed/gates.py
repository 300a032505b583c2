"""``gates``: one optimizer step with its proximal step over the gates of 224 modules (32 layers of 7 linears).

At r 16 these are 3584 numbers, 100 KB with their moments: nothing to compute, so that what is timed is the number of calls.
The floor in bytes: parameter and moments read and written, the gradient read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.contenders.optim import GATE_RULES, HYPER, THRESHOLD, released_step
from benchmarks.harness.registry import Benchmark, Settings, Step, Workload, largest_error
from fulgurite.kernels import reference

__all__ = ["BENCHMARK"]

_MODULES = 224
_CHECKED_STEPS = 5


def _gates(modules: int, rank: int, device: str) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    gates = [torch.nn.Parameter(torch.randn(rank, generator=generator).to(device)) for _ in range(modules)]
    for gate in gates:
        gate.grad = (torch.randn(rank, generator=generator) * 1e-2).to(device)
    # Some begin inside the dead zone of the released rule and some inside that of the soft threshold.
    with torch.no_grad():
        gates[0].mul_(THRESHOLD)
    return gates


def _prepare(contender: str, gates: list[torch.nn.Parameter]) -> Step:
    build = GATE_RULES[contender]
    step = build(gates)

    def results() -> Mapping[str, torch.Tensor]:
        fresh = [torch.nn.Parameter(gate.detach().clone()) for gate in gates]
        for new, gate in zip(fresh, gates, strict=True):
            assert gate.grad is not None
            new.grad = gate.grad.clone()
        several = build(fresh)
        for _ in range(_CHECKED_STEPS):
            several()
        return {"gates": torch.cat([gate.detach() for gate in fresh])}

    # Float32 against float64 after five steps of about 3e-3 on numbers of size 1.
    return Step(step, results, partial(_expected, contender, gates), slack=1e-6)


def _expected(contender: str, gates: list[torch.nn.Parameter]) -> Mapping[str, torch.Tensor]:
    value = torch.cat([gate.detach().double() for gate in gates])
    grad = torch.cat([gate.grad.double() for gate in gates if gate.grad is not None])
    # float32's value of the threshold, which decides who is inside it.
    threshold = float(torch.tensor(THRESHOLD))
    if contender == "released SoRA":
        released: dict[str, Any] = {}
        for _ in range(_CHECKED_STEPS):
            released_step(value, grad, released, threshold, HYPER["lr"])
        return {"gates": value}
    mean, square, count = torch.zeros_like(value), torch.zeros_like(value), torch.zeros((), dtype=torch.float64)
    beta1, beta2 = HYPER["betas"]
    rest = {k: HYPER[k] for k in ("lr", "eps", "weight_decay")} | {"beta1": beta1, "beta2": beta2}
    for _ in range(_CHECKED_STEPS):
        reference.proximal_adamw_step_(value, grad, mean, square, step=count, threshold=threshold, **rest)
    return {"gates": value}


def _workloads(settings: Settings) -> list[Workload]:
    workloads = []
    modules = 6 if settings.toy else _MODULES
    for rank in (4,) if settings.toy else (16, 64):
        contenders: dict[str, Callable[[Any], Step] | str] = {name: partial(_prepare, name) for name in GATE_RULES}
        workloads.append(
            Workload(
                f"{modules} modules r{rank}",
                {"modules": modules, "rank": rank},
                partial(_gates, modules, rank, settings.device),
                contenders,
                floor=None,
                floor_bytes=7 * 4 * modules * rank,
                runs_per_sample=1 if settings.toy else 2 if settings.device.startswith("cuda") else 20,
                memory=False,
            )
        )
    return workloads


BENCHMARK = Benchmark(
    "gates",
    "One AdamW step with the proximal step behind it, over the gates of 224 modules.",
    _workloads,
    largest_error,
    samples=40,
)
