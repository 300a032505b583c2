"""The objective of a task by name, and the two that need no file of their own: classification and regression."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step, forward_inputs

__all__ = ["make_objective"]


def make_objective(task: str) -> Objective:
    """The objective of a task of :data:`fulgurite.models.TASKS`."""
    from fulgurite.lightning_modules.objectives.language import LanguageModelling

    if task in ("causal_lm", "seq2seq"):
        return LanguageModelling(shifted=task == "causal_lm")
    return {"classification": classify, "regression": regress}[task]


def classify(network: nn.Module, batch: Batch) -> Step:
    """Cross-entropy over classes; labels (B,) int64, -100 for rows without a label."""
    logits = _wide(network(**forward_inputs(batch)).logits)
    labels = batch["labels"]
    loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    known = labels != -100
    return Step(loss, known.sum(), logits.detach().argmax(-1)[known], labels[known])


def regress(network: nn.Module, batch: Batch) -> Step:
    """Squared error, as transformers' sequence classification has it; labels (B,) float, NaN for rows without one."""
    values = _wide(network(**forward_inputs(batch)).logits).squeeze(-1)
    labels = batch["labels"].to(values.dtype)
    known = ~labels.isnan()
    return Step(
        F.mse_loss(values[known], labels[known], reduction="sum"), known.sum(), values.detach()[known], labels[known]
    )


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: a loss in half precision loses its small differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
