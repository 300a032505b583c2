"""``sparse_llama_step``: one whole training step with half a per cent of every linear layer's scalars trained.

Forward, loss, backward, optimizer step (which for ours includes writing the live weights), zero_grad. All contenders train the same
positions; the optimizer is torch.optim.AdamW, for ours ProximalAdamW, whose plain groups are torch's fused step on the CPU.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.contenders.models import Base, ModelCase, make_base, place, short
from benchmarks.contenders.sparse import SPARSE_PLACERS, SparsePlaced, fill_deltas, why_not_sparse
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from fulgurite.optim import ProximalAdamW

__all__ = ["SPARSE_LLAMA"]

DENSITY = 0.005
# Of the norm of all gradients together, beyond plain torch's own error in that dtype.
_SLACK = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


def _prepare(contender: str, case: ModelCase, base: Base) -> Step:
    if contender == "frozen":
        frozen = place("frozen", case, base, False).model
        return Step(
            lambda: frozen(**base.batch).loss.backward(),
            lambda: _loss(frozen, base),
            partial(_by_autograd, case, None, base, torch.float64),
            partial(_by_autograd, case, None, base, case.dtype),
            _SLACK[case.dtype],
        )
    placed = SPARSE_PLACERS[contender](base.model, case.targets, DENSITY)
    deltas = [layer.delta for layer in placed.layers]
    optimizer: torch.optim.Optimizer
    if contender == OURS:
        optimizer = ProximalAdamW(placed.handle.param_groups(lr=1e-4))
    else:
        optimizer = torch.optim.AdamW(deltas, lr=1e-4)

    def run() -> None:
        placed.model(**base.batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def on_random_deltas(compute: Callable[[], Any]) -> Any:
        before = [delta.detach().clone() for delta in deltas]
        fill_deltas(placed, 0.02)
        try:
            return compute()
        finally:
            with torch.no_grad():
                for delta, value in zip(deltas, before, strict=True):
                    delta.copy_(value)
            placed.sync()

    return Step(
        run,
        partial(on_random_deltas, partial(_gradients, placed, base)),
        partial(on_random_deltas, partial(_by_autograd, case, placed, base, torch.float64)),
        partial(on_random_deltas, partial(_by_autograd, case, placed, base, case.dtype)),
        _SLACK[case.dtype],
    )


def _loss(model: nn.Module, base: Base) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {"loss": model(**short(base.batch)).loss}


def _gradients(placed: SparsePlaced, base: Base) -> dict[str, torch.Tensor]:
    loss = placed.model(**short(base.batch)).loss
    found = torch.autograd.grad(loss, [layer.delta for layer in placed.layers])
    return {"loss": loss.detach(), **{str(i): grad.cpu() for i, grad in enumerate(found)}}


def _by_autograd(
    case: ModelCase, placed: SparsePlaced | None, base: Base, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Loss and gradients of a fresh model that holds base + δ, by the whole gradient of every weight."""
    model = make_base(case).model.to(torch.promote_types(dtype, torch.float32))
    if placed is None:
        return _loss(model.to(dtype), base)
    names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear) and re.fullmatch(case.targets, name)]
    weights: list[torch.Tensor] = [model.get_submodule(name).get_parameter("weight") for name in names]
    with torch.no_grad():
        for weight, layer in zip(weights, placed.layers, strict=True):
            weight.view(-1)[layer.index] += layer.delta.to(weight.dtype)
    model.to(dtype)
    weights = [model.get_submodule(name).get_parameter("weight").requires_grad_() for name in names]
    loss = model(**short(base.batch)).loss
    whole = torch.autograd.grad(loss, weights)
    entries = {str(i): g.view(-1)[p.index].cpu() for i, (g, p) in enumerate(zip(whole, placed.layers, strict=True))}
    return {"loss": loss.detach(), **entries}


def _workload(case: ModelCase) -> Workload:
    contenders: dict[str, Callable[[Any], Step] | str] = {"frozen": partial(_prepare, "frozen", case)}
    for name in SPARSE_PLACERS:
        contenders[name] = why_not_sparse(name) or partial(_prepare, name, case)
    facts = {"layers": case.layers, "hidden": case.hidden, "batch": case.batch, "length": case.length}
    facts |= {"density": DENSITY, "dtype": str(case.dtype).removeprefix("torch.")}
    name = str(case).replace(f"r{case.rank}", f"{100 * DENSITY:g} %")
    return Workload(name, facts, partial(make_base, case), contenders)


def _workloads(settings: Settings) -> list[Workload]:
    if settings.toy:
        return [_workload(ModelCase("llama", 1, 2, 24, 0, torch.float32, settings.device, hidden=64, vocabulary=200))]
    cuda = settings.device.startswith("cuda")
    case = ModelCase("llama", 6, 16 if cuda else 2, 512 if cuda else 256, 0, torch.float32, settings.device)
    cases = [case, replace(case, dtype=torch.bfloat16)]
    return [_workload(each) for each in ([replace(cases[1], layers=2, hidden=4096), *cases] if cuda else cases)]


SPARSE_LLAMA = Benchmark(
    "sparse_llama_step",
    "One training step of a 6-layer, 768-wide Llama (on a GPU also 2 layers, 4096 wide), 0.5 % of its linear scalars trained.",
    _workloads,
    norm_error,
)
