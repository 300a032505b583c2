"""One pass of a model over the support set: the perplexity, and on the way what each layer makes of each row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import nn
from tqdm import tqdm

from fulgurite.commands.emulate.support import SupportRow
from fulgurite.lightning_modules.objectives.language import IGNORE, LanguageModelling
from fulgurite.lightning_modules.objectives.step import Batch
from fulgurite.models.emulator.states import PooledStates
from fulgurite.models.modes import evaluation_mode

__all__ = ["Measured", "batch_of", "measure"]


class Measured(NamedTuple):
    """What a pass found.

    Attributes:
        loss: mean negative log-likelihood of the counted tokens, in nats.
        tokens: how many these are.
        features: (n, H) of each layer; empty where no pooling was asked for.
    """

    loss: float
    tokens: int
    features: list[torch.Tensor]

    @property
    def perplexity(self) -> float:
        """exp of the loss."""
        return math.exp(self.loss) if self.loss < 700 else math.inf


@torch.no_grad()
def measure(model: nn.Module, rows: Sequence[SupportRow], batch_size: int, pooling: str | None = None) -> Measured:
    """Run a model over all rows, once.

    Args:
        model: a causal language model, on its device.
        rows: at least one; they are run by length, the longest first, so that a lack of memory shows at once.
        batch_size: rows at a time.
        pooling: one of :data:`fulgurite.models.emulator.states.POOLING`; None collects nothing.

    Raises:
        ValueError: a layer that gives NaN or infinity.
    """
    objective, device = LanguageModelling(), next(model.parameters()).device
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    loss, tokens = 0.0, 0
    with evaluation_mode(model):
        objective(
            model, batch_of([rows[order[-1]]], device)
        )  # the head is proved at the first call, by passes of its own
        with nullcontext() if pooling is None else PooledStates(model, pooling) as states:
            starts = range(0, len(order), batch_size)
            for at in tqdm(starts, desc="rows", unit="batch", leave=False, delay=2, disable=None):
                part = [rows[i] for i in order[at : at + batch_size]]
                batch = batch_of(part, device)
                if states is not None:
                    states.begin(batch["attention_mask"], [row.place for row in part])
                step = objective(model, batch)
                assert step.token_losses is not None
                loss, tokens = loss + float(step.token_losses.double().sum()), tokens + int(step.targets)
    return Measured(loss / tokens, tokens, [] if states is None else states.features())


def batch_of(rows: Sequence[SupportRow], device: torch.device) -> Batch:
    """Rows side by side, padded behind; labels stand at the tokens that count.

    Args:
        rows: at least one.
        device: where to.
    """
    width = max(len(row.ids) for row in rows)
    ids = torch.zeros((len(rows), width), dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, IGNORE)
    for i, row in enumerate(rows):
        size = len(row.ids)
        ids[i, :size], mask[i, :size] = torch.tensor(row.ids), 1
        labels[i, row.start : size] = ids[i, row.start : size]
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device), "labels": labels.to(device)}
