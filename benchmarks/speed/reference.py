"""``reference_step``: what a cached reference saves: one DPO step on a tree, its reference looked up, or computed in the step.

The two shapes and the model are those of ``preference_step``. Both contenders are compared with float64 at a twentieth of the
lengths, the second with the log-probabilities of the base itself as reference.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from benchmarks.contenders.models import Base, ModelCase, make_base, on_random_factors, place
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.preference import (
    Pairs,
    as_new,
    gradients,
    made_up_reference,
    model_case,
    our_batch,
    our_loss,
    plain_loss_and_gradients,
    shapes,
)
from benchmarks.speed.steps import make_optimizer
from fulgurite.adapters import find_adapters
from fulgurite.lightning_modules.objectives.completions import CompletionLogProbs

__all__ = ["BENCHMARK", "prepare"]

_IN_THE_STEP = "fulgurite, reference in the step"


def prepare(cached: bool, make: Any, case: ModelCase, base: Base) -> Step:
    """The step with the reference looked up, or computed, on the pairs that ``make`` gives."""
    placed = place(OURS, case, base, False)
    adapter = find_adapters(placed.model)[0]
    optimizer, log_probs = make_optimizer(OURS, placed), CompletionLogProbs()
    long, short = make(), make(20)
    batches = {id(pairs): our_batch(pairs, True, case.device) for pairs in (long, short)}

    def loss_of(pairs: Pairs) -> torch.Tensor:
        batch = batches[id(pairs)]
        if not cached:
            batch = as_new(batch)
            with torch.no_grad(), adapter.disabled():
                batch = {**batch, "reference": log_probs(placed.model, batch)}
        return our_loss(log_probs, placed.model, batch)

    def run() -> None:
        loss_of(long).backward()
        optimizer.step()
        optimizer.zero_grad()

    known = made_up_reference(short) if cached else None
    return Step(
        run,
        partial(on_random_factors, placed, lambda: gradients(placed, loss_of(short))),
        partial(on_random_factors, placed, lambda: plain_loss_and_gradients(case, placed, short, known)),
        slack=2e-5 if case.dtype == torch.float32 else 3e-2,
    )


def _workloads(settings: Settings) -> list[Workload]:
    case = model_case(settings)
    return [
        Workload(
            name,
            {"layers": case.layers, "hidden": case.hidden, "vocabulary": case.vocabulary, "pairs": len(make(20))},
            partial(make_base, case),
            {_IN_THE_STEP: partial(prepare, False, make, case), OURS: partial(prepare, True, make, case)},
            floor=_IN_THE_STEP,
        )
        for name, make in shapes(settings, case).items()
    ]


BENCHMARK = Benchmark(
    "reference_step",
    "One DPO step on a tree with LoRA: the reference's log-probabilities looked up, or computed in the step.",
    _workloads,
    norm_error,
)
