"""``llama_step`` and ``deberta_step``: one whole training step, from the batch to the updated adapters.

Forward, loss, backward, optimizer step, zero_grad, with the optimizer that each contender's users take: torch.optim.AdamW, for
the released SoRA its own rule on the gates, for ours ProximalAdamW. AdaLoRA's step includes its rank allocator, as its
documentation asks. Random weights; the full depth of DeBERTa-base (12 layers) comes with --full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from benchmarks.contenders.low_rank import Placed, why_not
from benchmarks.contenders.models import (
    Base,
    ModelCase,
    gradients,
    make_base,
    place,
    random_factors,
    reference_gradients,
    short,
)
from benchmarks.contenders.optim import ReleasedRule
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from fulgurite.optim import ProximalAdamW

__all__ = ["DEBERTA", "LLAMA", "Optimizer", "checked", "make_optimizer"]

# name in the table -> (adapter, whether it has gates)
CONTENDERS = {
    "frozen": ("frozen", False),
    "plain torch LoRA": ("plain torch", False),
    "PEFT LoRA": ("PEFT LoRA", False),
    "PEFT LoRA, bf16 adapters": ("PEFT LoRA, bf16 adapters", False),
    "PEFT AdaLoRA": ("PEFT AdaLoRA", True),
    "released SoRA": ("released SoRA", True),
    "fulgurite SoRA": (OURS, True),
    OURS: (OURS, False),
}
# Of the norm of all gradients together, beyond plain torch's own error in that dtype.
_SLACK = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@dataclass(frozen=True)
class Optimizer:
    """What a contender's users train with."""

    step: Callable[[], Any]
    zero_grad: Callable[[], Any]
    groups: list[dict[str, Any]]


def make_optimizer(adapter: str, placed: Placed, lr: float = 1e-3) -> Optimizer:
    """The optimizer over all that ``placed`` trains; one that does nothing for the frozen model."""
    if not placed.factors:
        return Optimizer(lambda: None, lambda: None, [])
    if adapter == OURS:
        ours = ProximalAdamW(placed.handle.param_groups(lr=lr))
        placed.handle.watch(ours, shrink=True)  # what the module does where no wrapper holds the parameters
        return Optimizer(ours.step, ours.zero_grad, ours.param_groups)
    gates = [f.gate for f in placed.factors if f.gate is not None] if adapter == "released SoRA" else []
    held = set(map(id, gates))
    plain = torch.optim.AdamW([p for p in placed.parameters() if id(p) not in held], lr=lr)
    rule = ReleasedRule(gates)

    def step() -> None:
        plain.step()
        rule.step()

    def zero_grad() -> None:
        plain.zero_grad()
        for gate in gates:
            gate.grad = None

    return Optimizer(step, zero_grad, plain.param_groups)


def _prepare(contender: str, case: ModelCase, base: Base) -> Step:
    adapter, gated = CONTENDERS[contender]
    placed = place(adapter, case, base, gated)
    optimizer = make_optimizer(adapter, placed)
    count = [0]

    def run() -> None:
        placed.model(**base.batch).loss.backward()
        optimizer.step()
        count[0] += 1
        if placed.between is not None:
            placed.between(count[0])
        optimizer.zero_grad()

    return checked(Step(run, dict, dict), case, placed, gated, base)


def checked(step: Step, case: ModelCase, placed: Placed, gated: bool, base: Base) -> Step:
    """``step`` with results and expectation: loss and gradients on a short batch, with random factors.

    The adapter's own start (B = 0) would hide half of the gradients. AdaLoRA's regulariser is switched off meanwhile.
    """

    def results() -> dict[str, torch.Tensor]:
        if placed.factors:
            return gradients(placed, base.batch)
        with torch.no_grad():
            return {"loss": placed.model(**short(base.batch)).loss}

    def by_plain_torch(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        return reference_gradients(case, placed, gated, base.batch, dtype)

    def on_random_factors(compute: Callable[[], Any]) -> Any:
        config = placed.handle.peft_config["default"] if placed.between is not None else None
        weight = None if config is None else config.orth_reg_weight
        if config is not None:
            config.orth_reg_weight = 1e-12
        try:
            with random_factors(placed):
                return compute()
        finally:
            if config is not None:
                config.orth_reg_weight = weight

    return replace(
        step,
        results=partial(on_random_factors, results),
        expected=partial(on_random_factors, partial(by_plain_torch, torch.float64)),
        plain=partial(on_random_factors, partial(by_plain_torch, case.dtype)),
        slack=_SLACK[case.dtype],
    )


def _workload(case: ModelCase) -> Workload:
    contenders: dict[str, Callable[[Any], Step] | str] = {}
    for name, (adapter, gated) in CONTENDERS.items():
        reason = None if adapter == "frozen" else why_not(adapter, case.device, case.dtype, gated)
        contenders[name] = reason or partial(_prepare, name, case)
    for name in ("Unsloth", "Liger"):
        contenders[name] = why_not(name, case.device, case.dtype, False) or "not wired up yet: no machine to try it on"
    contenders[OURS] = contenders.pop(OURS)
    facts = {"layers": case.layers, "hidden": case.hidden, "batch": case.batch, "length": case.length}
    facts |= {"rank": case.rank, "dtype": str(case.dtype).removeprefix("torch.")}
    return Workload(str(case), facts, partial(make_base, case), contenders)


def _toy(kind: str, settings: Settings) -> list[Workload]:
    return [_workload(ModelCase(kind, 1, 2, 24, 4, torch.float32, settings.device, hidden=64, vocabulary=200))]


def _llama(settings: Settings) -> list[Workload]:
    if settings.toy:
        return _toy("llama", settings)
    cuda = settings.device.startswith("cuda")
    case = ModelCase("llama", 6, 16 if cuda else 2, 512 if cuda else 256, 16, torch.bfloat16, settings.device)
    cases = [case, replace(case, dtype=torch.float32)]
    return [_workload(each) for each in ([replace(case, layers=2, hidden=4096), *cases] if cuda else cases)]


def _deberta(settings: Settings) -> list[Workload]:
    if settings.toy:
        return _toy("deberta", settings)
    cuda = settings.device.startswith("cuda")
    layers = 12 if cuda or settings.full else 4
    case = ModelCase("deberta", layers, 32 if cuda else 8, 128 if cuda else 64, 8, torch.float32, settings.device)
    return [_workload(case), _workload(replace(case, dtype=torch.bfloat16))]


LLAMA = Benchmark(
    "llama_step",
    "One training step of a 6-layer, 768-wide Llama (on a GPU also 2 layers, 4096 wide) with adapters on every linear layer.",
    _llama,
    norm_error,
)
DEBERTA = Benchmark(
    "deberta_step",
    "One training step of a DeBERTa-v3-base shape (4 of its 12 layers on a CPU, all with --full).",
    _deberta,
    norm_error,
)
