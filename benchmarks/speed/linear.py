"""``linear``: forward and backward of one linear layer with a low-rank branch, beside the same layer frozen.

The floor in time is the frozen layer's forward and dX. The floor in bytes, if each pass were perfectly fused: W twice, y and dX
written, dY read once, x read twice, because dA needs it again in the backward.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import nn

from benchmarks.contenders.low_rank import PLACERS, Factors, fill, forward_float64, why_not
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, generator_on, largest_error

__all__ = ["BENCHMARK", "Alone", "Case", "Shape", "prepare"]

# One spacing of the dtype at the largest entry, and for float32 the order of summation over thousands of terms.
_SLACK = {torch.float32: 5e-6, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}
_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class Case:
    """x (m, k), W (n, k), rank; the dtype is the base's, adapters are float32 where their package does not say otherwise."""

    m: int
    k: int
    n: int
    rank: int
    dtype: torch.dtype
    gated: bool
    device: str = "cpu"

    def __str__(self) -> str:
        gate = "gate" if self.gated else "no gate"
        return f"{self.m}x{self.k}x{self.n} r{self.rank} {_SHORT[self.dtype]} {gate}"


class Shape(Protocol):
    """What :class:`Alone` has to know of a case."""

    @property
    def m(self) -> int: ...
    @property
    def k(self) -> int: ...
    @property
    def n(self) -> int: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def device(self) -> str: ...


class Alone(nn.Module):
    """A model of one frozen linear layer, with its input and output gradient."""

    def __init__(self, case: Shape) -> None:
        super().__init__()
        random = partial(torch.randn, generator=generator_on(case.device), device=case.device)
        self.layer = nn.Linear(case.k, case.n, device=case.device)
        with torch.no_grad():
            self.layer.weight.copy_(random(case.n, case.k) / case.k**0.5)
            self.layer.bias.copy_(random(case.n))
        self.requires_grad_(False)
        x, dy = random(case.m, case.k), random(case.m, case.n)
        self.to(case.device, case.dtype)
        self.x = x.to(case.device, case.dtype).requires_grad_()
        self.dy = dy.to(case.device, case.dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output."""
        return self.layer(x)


def prepare(contender: str, case: Case, base: Alone) -> Step:
    """Put a contender (or nothing, for "frozen") onto the layer."""
    frozen, factors = base.layer, None
    if contender != "frozen":
        placed = PLACERS[contender](base, "layer", case.rank, 2.0 * case.rank, case.gated)
        fill(placed)
        (factors,) = placed.factors
    x, dy = base.x, base.dy
    leaves: dict[str, Any] = {"x": x, **(factors.named() if factors else {})}

    def run() -> torch.Tensor:
        for leaf in leaves.values():
            leaf.grad = None
        y = base.layer(x)
        y.backward(dy)
        return y

    def results() -> dict[str, torch.Tensor]:
        y = run()
        return {"y": y.detach(), **{f"d_{name}": leaf.grad.reshape(-1) for name, leaf in leaves.items()}}

    plain = None if contender in ("frozen", "plain torch") else partial(_plain, case, factors)
    slack = _SLACK[case.dtype] * (3 if plain is None else 1)
    return Step(run, results, partial(_expected, x, dy, frozen, factors), plain, slack)


def _expected(x: torch.Tensor, dy: torch.Tensor, linear: nn.Linear, factors: Factors | None) -> dict[str, torch.Tensor]:
    graph = forward_float64(x, linear, factors)
    graph["y"].backward(dy.double())
    y = graph.pop("y")
    return {"y": y.detach(), **{f"d_{name}": leaf.grad.reshape(-1) for name, leaf in graph.items()}}


def _plain(case: Case, factors: Factors | None) -> dict[str, torch.Tensor]:
    """Plain torch on the same factors: the yardstick of exactness."""
    base = Alone(case)
    placed = PLACERS["plain torch"](base, "layer", case.rank, 1.0, case.gated)
    (mine,) = placed.factors
    assert factors is not None
    base.layer.scaling = factors.scaling
    with torch.no_grad():
        for name, parameter in mine.named().items():
            parameter.copy_(factors.named()[name].reshape(parameter.shape))
    y = base.layer(base.x)
    y.backward(base.dy)
    leaves: dict[str, Any] = {"x": base.x, **mine.named()}
    return {"y": y.detach(), **{f"d_{name}": leaf.grad.reshape(-1) for name, leaf in leaves.items()}}


def _workload(case: Case, memory: bool = True) -> Workload:
    names = ["frozen", *PLACERS]
    contenders: dict[str, Callable[[Any], Step] | str] = {}
    for name in names:
        contenders[name] = why_not(name, case.device, case.dtype, case.gated) or partial(prepare, name, case)
    contenders["Unsloth"] = why_not("Unsloth", case.device, case.dtype, case.gated) or (
        "has no layer of its own: its kernels work inside models that it patches (see llama_step)"
    )
    contenders["Liger"] = "has no low-rank layer"
    contenders[OURS] = contenders.pop(OURS)
    size = torch.finfo(case.dtype).bits // 8
    moved = (3 * case.m * (case.k + case.n) - case.m * case.n + 2 * case.n * case.k) * size
    facts = {
        "m": case.m, "k": case.k, "n": case.n, "rank": case.rank, "dtype": _SHORT[case.dtype], "gated": case.gated
    }  # fmt: skip
    runs = 5 if case.device.startswith("cuda") else 1
    return Workload(
        str(case),
        facts,
        partial(Alone, case),
        contenders,
        floor_bytes=moved,
        memory=memory,
        runs_per_sample=runs,
    )


def _workloads(settings: Settings) -> list[Workload]:
    device = settings.device
    if settings.toy:
        tiny = Case(64, 32, 48, 4, torch.float32, True, device)
        return [_workload(case, memory=False) for case in (tiny, replace(tiny, gated=False))]
    if device.startswith("cuda"):
        first = Case(8192, 4096, 4096, 16, torch.bfloat16, True, device)
        wide = replace(first, n=14336)
    else:
        first = Case(2048, 1024, 1024, 16, torch.float32, True, device)
        wide = replace(first, m=512, k=768, n=3072)
    half = replace(first, dtype=torch.bfloat16)
    cases = [first, replace(first, gated=False), half, replace(half, gated=False)]
    cases += [replace(first, rank=8), replace(first, rank=64), replace(half, rank=8), replace(half, rank=64)]
    cases += [wide, replace(wide, dtype=torch.bfloat16), replace(wide, k=wide.n, n=wide.k)]
    if device.startswith("cuda"):
        many = replace(first, m=32768)
        cases = [many, replace(many, gated=False), first, replace(first, gated=False)]
        cases += [replace(first, rank=r) for r in (8, 64)]
        cases += [wide, replace(first, m=4096, k=768, n=768), replace(first, dtype=torch.float16)]
    return [_workload(case) for case in cases]


BENCHMARK = Benchmark(
    "linear",
    "One linear layer, forward and backward, weight frozen; the low-rank branch's cost over the frozen layer.",
    _workloads,
    largest_error,
    samples=40,
)
