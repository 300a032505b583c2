"""Metrics by name, from torchmetrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torchmetrics
from torchmetrics import classification as tmc

__all__ = ["METRICS", "MeanLoss", "Perplexity", "make_metrics"]

METRICS = ("accuracy", "f1", "mcc", "pearson", "spearman", "perplexity")


class MeanLoss(torchmetrics.MeanMetric):
    """Mean loss per target; ``update(loss_sum, targets)``."""

    def update(self, loss_sum: torch.Tensor, targets: torch.Tensor) -> None:  # type: ignore[override]
        """loss_sum: (), summed over ``targets`` () targets."""
        super().update(loss_sum.detach().double() / targets.clamp(min=1), targets.double())


class Perplexity(MeanLoss):
    """exp of the mean loss per token."""

    def compute(self) -> torch.Tensor:
        """() float."""
        return super().compute().exp()


def make_metrics(names: Sequence[str], num_labels: int, prefix: str) -> torchmetrics.MetricCollection:
    """Metrics of predicted labels (B,) int64 or values (B,) float against labels of the same shape; perplexity excepted.

    Args:
        names: out of :data:`METRICS`; f1 is that of class 1 (as GLUE counts it) with two classes, else macro.
        num_labels: number of classes; 1 for regression.
        prefix: put before each name, such as "val_".

    Raises:
        ValueError: an unknown name.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"make_metrics: {unknown[0]!r} is unknown; allowed are {', '.join(METRICS)}.")
    classes = max(2, num_labels)
    makers: dict[str, Callable[[], torchmetrics.Metric]] = {
        "accuracy": lambda: tmc.MulticlassAccuracy(classes, average="micro"),
        "f1": lambda: tmc.BinaryF1Score() if classes == 2 else tmc.MulticlassF1Score(classes, average="macro"),
        "mcc": lambda: tmc.MulticlassMatthewsCorrCoef(classes),
        "pearson": torchmetrics.PearsonCorrCoef,
        "spearman": torchmetrics.SpearmanCorrCoef,
    }
    return torchmetrics.MetricCollection({n: makers[n]() for n in names if n != "perplexity"}, prefix=prefix)
