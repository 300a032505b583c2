"""``whole_training``: SoRA whose ranks die against LoRA of the same starting rank, over all steps of a training.

Rank, learning rate, threshold, patience and looks are read from configs/quickstart.yaml, and there are as many steps as it
takes (272, with its warm-up and linear decay). Tokens and labels are random, so that nothing but the schedule decides which ranks
live; the results file says how many were left. Every step is taken by all contenders in turn.

The figure is the whole training's time; p20 and p80 are those of 20 interleaved slices (slice i holds steps i, i + 20, …), each
scaled to the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.contenders.low_rank import why_not
from benchmarks.contenders.models import Base, ModelCase, make_base, place
from benchmarks.harness.registry import OURS, Benchmark, Settings, Step, Workload, norm_error
from benchmarks.speed.steps import checked, make_optimizer

__all__ = ["BENCHMARK", "learning_rate", "recipe"]

_RECIPE = Path(__file__).resolve().parents[2] / "configs" / "quickstart.yaml"
_STEPS = 272  # 4 epochs of 68 batches
_WARMUP = 0.06  # the module's default share


def recipe() -> dict[str, Any]:
    """The quickstart's options of its module."""
    options: dict[str, Any] = yaml.safe_load(_RECIPE.read_text(encoding="utf-8"))["model"]["init_args"]
    return options


def learning_rate(peak: float, step: int) -> float:
    """Linear warm-up and linear decay; ``step`` from 0."""
    warm = _WARMUP * _STEPS
    return peak * min((step + 1) / warm, max(0.0, (_STEPS - step) / (_STEPS - warm)))


def _prepare(contender: str, case: ModelCase, base: Base) -> Step:
    adapter, gated = {"LoRA, ours": (OURS, False), "PEFT LoRA": ("PEFT LoRA", False), OURS: (OURS, True)}[contender]
    options = recipe()
    sparse = {name: options[name] for name in ("threshold", "patience", "look_every")}
    placed = place(adapter, case, base, gated, **(sparse if gated else {}))
    peak = float(options["learning_rate"])
    optimizer = make_optimizer(adapter, placed, peak)
    generator = torch.Generator().manual_seed(1)
    count = [0]

    def run() -> None:
        rate = learning_rate(peak, count[0])
        for group in optimizer.groups:
            group["lr"] = rate
        count[0] += 1
        batch = dict(base.batch)
        batch["labels"] = torch.randint(0, 2, batch["labels"].shape, generator=generator).to(batch["labels"].device)
        placed.model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def facts() -> Mapping[str, Any]:
        if placed.handle is None or not gated:
            return {}
        table = placed.handle.rank_table()
        live = [row.live for row in table]
        total = sum(row.rank for row in table)
        return {
            "ranks_at_start": total,
            "ranks_left": sum(live),
            "modules": len(live),
            "modules_at_zero": live.count(0),
        }

    return checked(replace(Step(run, dict, dict), facts=facts), case, placed, gated, base)


def _workloads(settings: Settings) -> list[Workload]:
    cuda = settings.device.startswith("cuda")
    layers = 12 if cuda or settings.full else 4
    batch, length = (32, 128) if cuda else (4, 32)
    options = recipe()
    case = ModelCase("deberta", layers, batch, length, options["rank"], torch.float32, settings.device)
    contenders: dict[str, Callable[[Any], Step] | str] = {}
    for name, adapter in (("LoRA, ours", OURS), ("PEFT LoRA", "PEFT LoRA"), (OURS, OURS)):
        contenders[name] = why_not(adapter, case.device, case.dtype, False) or partial(_prepare, name, case)
    facts = {"layers": case.layers, "batch": case.batch, "length": case.length, "rank": case.rank, "steps": _STEPS}
    return [
        Workload(
            f"{case}, {_STEPS} steps",
            facts | {k: options[k] for k in ("threshold", "learning_rate", "patience", "look_every")},
            partial(make_base, case),
            contenders,
            floor="LoRA, ours",
            whole=_STEPS,
            memory=False,
        )
    ]


BENCHMARK = Benchmark(
    "whole_training",
    "All steps of a training: SoRA with ranks dying (fulgurite) against LoRA of the same starting rank.",
    _workloads,
    norm_error,
)
