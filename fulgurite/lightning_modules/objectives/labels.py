"""Objectives over labelled rows: classification and regression."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step, forward_inputs, supervised_places

__all__ = ["Classification", "Regression"]


class Classification(Objective):
    """Cross-entropy over classes; labels (B,) int64, -100 for rows without a label."""

    name, metric_names = "cross-entropy", ("accuracy",)

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss of the labelled rows."""
        logits = _wide(network(**forward_inputs(batch)).logits)
        labels = batch["labels"]
        loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
        known = labels != -100
        rows = supervised_places(batch, known)
        right, predicted = (t.index_select(0, rows.at) for t in (labels, logits.detach().argmax(-1)))
        return Step(rows.guard(loss), known.sum(), predicted, right)

    def on_host(self, batch: Batch) -> Batch:
        """The rows that have a label."""
        return _with_rows(super().on_host(batch), batch["labels"] != -100) if _labelled_on_cpu(batch) else batch


class Regression(Objective):
    """Squared error, as transformers' sequence classification has it; labels (B,) float, NaN for rows without one."""

    name, metric_names = "squared error", ("pearson", "spearman")

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss of the labelled rows."""
        values = _wide(network(**forward_inputs(batch)).logits).squeeze(-1)
        labels = batch["labels"].to(values.dtype)
        known = ~labels.isnan()
        rows = supervised_places(batch, known)
        values, labels = (t.index_select(0, rows.at) for t in (values, labels))
        loss = F.mse_loss(values, labels, reduction="sum")
        return Step(rows.guard(loss), known.sum(), values.detach(), labels)

    def on_host(self, batch: Batch) -> Batch:
        """The rows that have a value."""
        return _with_rows(super().on_host(batch), ~batch["labels"].isnan()) if _labelled_on_cpu(batch) else batch


def _labelled_on_cpu(batch: Batch) -> bool:
    return "labels" in batch and batch["labels"].device.type == "cpu"


def _with_rows(batch: Batch, known: torch.Tensor) -> Batch:
    return {**batch, "supervised": known.nonzero().squeeze(1)}


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: a loss in half precision loses its small differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
