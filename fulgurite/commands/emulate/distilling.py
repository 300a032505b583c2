"""`fulgurite emulate --distill_steps`: the owner trains the emulator's frozen layers against the full model before giving it away.

The loss is Offsite-Tuning's (arXiv 2302.04870): 1.0 · cross-entropy of the rows' tokens + 30.0 · distance to the full model's
states (:mod:`fulgurite.models.emulator.distillation`). AdamW without weight decay, 3 % warm-up, cosine decay, gradients clipped at
norm 1. The layers that are to be trained later stay the full model's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from fulgurite.commands.emulate.measuring import batch_of
from fulgurite.commands.emulate.support import SupportRow
from fulgurite.lightning_modules.objectives.language import LanguageModelling
from fulgurite.models.emulator.distillation import Runs, with_own_layers
from fulgurite.models.emulator.folder import Emulator
from fulgurite.models.emulator.hashes import layer_hash
from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.manifest import Distilled
from fulgurite.models.emulator.stacking import restack
from fulgurite.optim import ProximalAdamW, StagedSchedule

__all__ = ["Distillation", "DistillationOptions", "distil"]

_DISTANCE_WEIGHT = 30.0
_WARM_UP, _CLIP = 0.03, 1.0


@dataclass(frozen=True)
class DistillationOptions:
    """How the emulator's frozen layers are trained before it is given away.

    Args:
        distill_steps: train the layers that stay and are not to be trained later, for so many steps, to compute what the full
            model computes in their place; 0 leaves them as they are.
        distill_learning_rate: at its peak.
        distill_rows: a file of rows to do so on, read as those of --support are; none takes the rows of --support.
    """

    distill_steps: int = 0
    distill_learning_rate: float = 1e-4
    distill_rows: str | None = None


class Distillation(NamedTuple):
    """An emulator whose frozen layers were trained.

    Attributes:
        full: the full model with the changed layers in it: what the emulator is made of.
        emulator: with the manifest that says so.
        before: distance to the full model's states over the rows before the training.
        after: the same afterwards.
    """

    full: nn.Module
    emulator: Emulator
    before: float
    after: float


def distil(
    full: nn.Module, emulator: Emulator, rows: Sequence[SupportRow], options: DistillationOptions, batch_size: int
) -> Distillation:
    """Trains the frozen layers; the full model stays as it is.

    Args:
        full: the full model.
        emulator: made of it.
        rows: to train on, in a new order each time they are gone through, which is the same in every run.
        options: steps and learning rate.
        batch_size: rows of a step.

    Raises:
        ValueError: every kept layer is trained later; a loss that is no number.
    """
    manifest = emulator.manifest
    numbers = [number for number in manifest.kept if number not in manifest.trained]
    if not numbers:
        raise ValueError(
            f"emulate: --distill_steps {options.distill_steps}, and all {len(manifest.kept)} kept layers are to be trained later, "
            "so that there is nothing to distil; give a larger --keep, or leave --distill_steps out"
        )
    changed = with_own_layers(full, numbers)
    student = restack(changed, manifest.sources, list(manifest.trained_places))
    layers = find_layers(changed).modules
    parameters = [p for number in numbers for p in layers[number].parameters()]
    runs, objective = Runs(student, full, manifest), LanguageModelling()
    device = next(student.parameters()).device
    before = _distance(runs, rows, batch_size, device)
    for p in parameters:
        p.requires_grad_(True)
    optimizer = ProximalAdamW([{"params": parameters, "weight_decay": 0.0}], lr=options.distill_learning_rate)
    schedule = StagedSchedule([options.distill_steps], _WARM_UP, "cosine")
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    drawn = _drawn(rows, batch_size)
    for number in tqdm(range(options.distill_steps), desc="distilling", unit="step", delay=2, disable=None):
        batch = batch_of(next(drawn), device)
        step = objective(student, batch)
        loss = step.loss_sum / step.targets
        loss.backward()
        distance = _DISTANCE_WEIGHT * runs.distance(batch)
        distance.backward()
        if not bool(torch.isfinite(loss.detach() + distance.detach())):
            raise ValueError(
                f"emulate: the loss of distillation is not finite at step {number + 1}; give a smaller --distill_learning_rate, or "
                "--dtype float32"
            )
        torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    for p in parameters:
        p.requires_grad_(False)
        if not bool(p.isfinite().all()):
            raise ValueError(
                "emulate: distillation made weights that are not finite; give a smaller --distill_learning_rate"
            )
    size = sum(p.numel() * p.element_size() for p in parameters)
    done = Distilled(numbers, size, options.distill_steps, options.distill_learning_rate, len(rows))
    hashes = [layer_hash(layers[number]) for number in manifest.kept]
    said = dataclasses.replace(manifest, layer_hashes=hashes, distilled=done)
    after = _distance(runs, rows, batch_size, device)
    return Distillation(changed, Emulator(student, said), before, after)


def _drawn(rows: Sequence[SupportRow], batch_size: int) -> Iterator[list[SupportRow]]:
    generator = torch.Generator().manual_seed(0)
    while True:
        order = torch.randperm(len(rows), generator=generator).tolist()
        for at in range(0, len(order), batch_size):
            yield [rows[i] for i in order[at : at + batch_size]]


@torch.no_grad()
def _distance(runs: Runs, rows: Sequence[SupportRow], batch_size: int, device: torch.device) -> float:
    """Mean over the rows' batches, in the rows' order."""
    batches = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    return float(torch.stack([runs.distance(batch_of(batch, device)) for batch in batches]).mean())
