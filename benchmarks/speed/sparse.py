"""``sparse_linear`` and ``sparse_gradient``: one linear layer with some trained scalars, and the ways of computing their gradient.

``sparse_linear`` times forward and backward beside the same layer frozen; ``sparse_gradient`` times each method of
fulgurite/kernels/sparse/plan.py alone, whose thresholds are read off it. Its floor is one whole product ∂yᵀx and a gather:
what an adapter pays that lets autograd compute the weight's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.contenders.sparse import SPARSE_PLACERS, SparseLayer, fill_deltas, mask, why_not_sparse
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, generator_on, largest_error
from benchmarks.speed.linear import Alone
from fulgurite.kernels import SparsePlan, plan_sparse_delta
from fulgurite.kernels.sparse import gradient as sparse_gradient

__all__ = ["GRADIENT", "LINEAR", "SparseCase"]

# One spacing of the dtype at the largest entry, and for float32 the order of summation over thousands of terms.
_SLACK = {torch.float32: 5e-6, torch.bfloat16: 7.8e-3, torch.float16: 9.8e-4}
_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class SparseCase:
    """x (m, k), W (n, k), a share of W's scalars trained, at random positions."""

    m: int
    k: int
    n: int
    density: float
    dtype: torch.dtype
    device: str = "cpu"

    def __str__(self) -> str:
        return f"{self.m}x{self.k}x{self.n} {100 * self.density:g} % {_SHORT[self.dtype]}"

    @property
    def facts(self) -> dict[str, Any]:
        """For the results file."""
        return {"m": self.m, "k": self.k, "n": self.n, "density": self.density, "dtype": _SHORT[self.dtype]}


def prepare(contender: str, case: SparseCase, base: Alone) -> Step:
    """Put a contender (or nothing, for "frozen") onto the layer."""
    layers: list[SparseLayer] = []
    if contender != "frozen":
        placed = SPARSE_PLACERS[contender](base, "layer", case.density)
        fill_deltas(placed, 1 / case.k**0.5)
        layers = placed.layers
    leaves = {"x": base.x, **dict(zip(("delta",), (layer.delta for layer in layers)))}

    def run() -> torch.Tensor:
        for leaf in leaves.values():
            leaf.grad = None
        y = base.layer(base.x)
        y.backward(base.dy)
        return y

    def results() -> dict[str, torch.Tensor]:
        y = run()
        return {"y": y.detach(), **{f"d_{n}": leaf.grad for n, leaf in leaves.items() if leaf.grad is not None}}

    plain = None if contender == "frozen" else partial(_by_autograd, case, layers, case.dtype)
    slack = _SLACK[case.dtype] * (3 if plain is None else 1)
    return Step(run, results, partial(_by_autograd, case, layers, torch.float64), plain, slack)


def _by_autograd(case: SparseCase, layers: list[SparseLayer], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The same on a fresh layer whose whole weight has a gradient."""
    fresh = Alone(case)
    weight = fresh.layer.weight.detach().to(torch.promote_types(dtype, torch.float32))
    for layer in layers:
        weight.view(-1)[layer.index] += layer.delta.detach().to(weight.dtype)
    weight = weight.to(dtype).requires_grad_(bool(layers))
    x = fresh.x.detach().to(dtype).requires_grad_()
    y = F.linear(x, weight, fresh.layer.bias.detach().to(dtype))
    y.backward(fresh.dy.to(dtype))
    found = {"y": y.detach(), "d_x": x.grad}
    for layer in layers:
        assert weight.grad is not None
        found["d_delta"] = weight.grad.view(-1)[layer.index]
    return {name: value for name, value in found.items() if value is not None}


def _linear_workload(case: SparseCase) -> Workload:
    contenders: dict[str, Callable[[Any], Step] | str] = {"frozen": partial(prepare, "frozen", case)}
    for name in SPARSE_PLACERS:
        contenders[name] = why_not_sparse(name) or partial(prepare, name, case)
    size = torch.finfo(case.dtype).bits // 8
    # W twice; x and ∂y read in the forward and for ∂x; y and ∂x written; both read again for the gradient of δ.
    moved = (2 * case.n * case.k + 3 * case.m * (case.k + case.n)) * size
    runs = 5 if case.device.startswith("cuda") else 1
    return Workload(str(case), case.facts, partial(Alone, case), contenders, floor_bytes=moved, runs_per_sample=runs)


def _linear_workloads(settings: Settings) -> list[Workload]:
    if settings.toy:
        return [_linear_workload(SparseCase(64, 32, 48, 0.01, torch.float32, settings.device))]
    if settings.device.startswith("cuda"):
        first = SparseCase(32768, 4096, 4096, 0.001, torch.bfloat16, settings.device)
        cases = [first, replace(first, density=0.01)]
    else:
        first = SparseCase(2048, 2048, 2048, 0.001, torch.float32)
        cases = [replace(first, density=d, dtype=t) for t in (torch.float32, torch.bfloat16) for d in (0.001, 0.01)]
    return [_linear_workload(case) for case in cases]


LINEAR = Benchmark(
    "sparse_linear",
    "One linear layer, forward and backward, some of its scalars trained; the cost over the frozen layer.",
    _linear_workloads,
    largest_error,
    samples=30,
)


# The dense way with smaller programs in its second launch, and with programs that start before the product has ended.
_PICKINGS: dict[str, dict[str, Any]] = {
    "dense, 256 a program": {"BLOCK": 256},
    "dense, early": {"EARLY": True},
    "dense, early, 256 a program": {"EARLY": True, "BLOCK": 256},
}


@dataclass(frozen=True)
class _Sides:
    """∂y (m, n), x (m, k) and the pattern."""

    left: torch.Tensor
    right: torch.Tensor
    plan: SparsePlan


def _sides(case: SparseCase) -> _Sides:
    random = partial(torch.randn, generator=generator_on(case.device), device=case.device)
    left, right = (random(case.m, c).to(case.dtype) for c in (case.n, case.k))
    index = mask((case.n, case.k), case.density, 0, case.device)
    return _Sides(left, right, plan_sparse_delta(index, (case.n, case.k)))


def _compute(method: str, sides: _Sides) -> torch.Tensor:
    if method == "whole":
        return (sides.left.t() @ sides.right).view(-1).index_select(0, sides.plan.index)
    if method == OURS:
        return sparse_gradient.selected_entries(sides.left, sides.right, sides.plan)
    if method in _PICKINGS:
        return _picked(sides, **_PICKINGS[method])
    left = sparse_gradient.narrowed(sides.left, sides.plan.row_ids)
    right = sparse_gradient.narrowed(sides.right, sides.plan.column_ids)
    if method == "union":
        from fulgurite.kernels.sparse.triton_union import sparse_delta_gradient

        return sparse_delta_gradient(left, right, sides.plan)
    return sparse_gradient.by_method(left, right, sides.plan, method)


def _picked(sides: _Sides, **settings: Any) -> torch.Tensor:
    """The dense way with other settings of the kernel that picks the entries of a product."""
    from fulgurite.kernels.sparse import triton_picked

    before = {name: getattr(triton_picked, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(triton_picked, name, value)
        return sparse_gradient.by_method(sides.left, sides.right, sides.plan, "dense")
    finally:
        for name, value in before.items():
            setattr(triton_picked, name, value)


def _why_not_picked(case: SparseCase, method: str) -> str | None:
    if not case.device.startswith("cuda"):
        return "needs a GPU"
    from fulgurite.kernels.sparse.triton_picked import why_not_early

    return why_not_early(torch.device(case.device)) if _PICKINGS[method].get("EARLY") else None


def _prepare_method(method: str, sides: _Sides) -> Step:
    def expected() -> Mapping[str, torch.Tensor]:
        whole = sides.left.double().t() @ sides.right.double()
        return {"entries": whole.view(-1)[sides.plan.index]}

    run = partial(_compute, method, sides)
    chosen = partial(dict, method=sides.plan.method(sides.left.dtype))
    slack = _SLACK[sides.left.dtype]
    return Step(run, lambda: {"entries": run()}, expected, partial(_whole, sides), slack, chosen)


def _whole(sides: _Sides) -> Mapping[str, torch.Tensor]:
    return {"entries": _compute("whole", sides)}


def _gradient_workload(case: SparseCase) -> Workload:
    contenders: dict[str, Callable[[Any], Step] | str] = {}
    cuda = case.device.startswith("cuda")
    for method in ("whole", "dots", "sampled", "union", "dense", *_PICKINGS, OURS):
        reason = None
        if method == "dots" and case.density * case.n * case.k > 1000:
            reason = "only for up to a thousand scalars"
        elif method == "sampled" and cuda:
            reason = "only on the CPU: cuSPARSE has no half precision here"
        elif method == "union" and not cuda:
            reason = "needs a GPU"
        elif method in _PICKINGS:
            reason = _why_not_picked(case, method)
        contenders[method] = reason or partial(_prepare_method, method)
    return Workload(
        str(case),
        case.facts,
        partial(_sides, case),
        contenders,
        floor="whole",
        memory=cuda and case.dtype == torch.bfloat16 and case.density in (0.001, 0.01),
        runs_per_sample=10 if cuda else 1,
        graph=cuda,
    )


def _gradient_workloads(settings: Settings) -> list[Workload]:
    if settings.toy:
        return [_gradient_workload(SparseCase(64, 32, 48, 0.01, torch.float32, settings.device))]
    if settings.device.startswith("cuda"):
        first = SparseCase(8192, 4096, 4096, 0.001, torch.bfloat16, settings.device)
        densities = (1e-6, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.007, 0.01)
        cases = [replace(first, density=d) for d in densities]
        cases += [replace(first, density=d, dtype=torch.float32) for d in (0.001, 0.005, 0.01)]
        return [_gradient_workload(case) for case in cases]
    cases = []
    for width, tokens in ((768, 512), (2048, 512), (2048, 2048)):
        for dtype in (torch.float32, torch.bfloat16):
            for density in (16 / width**2, 128 / width**2, 0.001, 0.01, 0.03, 0.1, 0.2):
                cases.append(SparseCase(tokens, width, width, density, dtype))
    return [_gradient_workload(case) for case in cases]


GRADIENT = Benchmark(
    "sparse_gradient",
    "The gradient of some scalars of one weight, by each method; the cost over the weight's whole gradient.",
    _gradient_workloads,
    largest_error,
)
