"""The metrics that a datamodule can name: those of labels and values from torchmetrics, and those of tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
import torchmetrics
from torchmetrics import classification as tmc

from fulgurite.evaluation.answers import ANSWER_METRICS
from fulgurite.lightning_modules.objectives.step import Step

__all__ = ["LABEL_METRICS", "TOKEN_METRICS", "MeanLoss", "Perplexity", "TokenMetrics", "make_metrics"]

# Metrics of predicted labels and values, each made for a number of classes, at least 2. A new one is one line here.
LABEL_METRICS: dict[str, Callable[[int], torchmetrics.Metric]] = {
    "accuracy": lambda classes: tmc.MulticlassAccuracy(classes, average="micro"),
    "f1": lambda classes: tmc.BinaryF1Score() if classes == 2 else tmc.MulticlassF1Score(classes, average="macro"),
    "mcc": lambda classes: tmc.MulticlassMatthewsCorrCoef(classes),
    "pearson": lambda classes: torchmetrics.PearsonCorrCoef(),
    "spearman": lambda classes: torchmetrics.SpearmanCorrCoef(),
}
PAIR_METRIC = "rewards/accuracies"  # of preference modules, which keep it themselves
# Updated token by token, not in the collection that compares predictions with labels.
TOKEN_METRICS = ("perplexity", "token_accuracy")


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


class TokenMetrics(torch.nn.Module):
    """What is measured token by token: perplexity, token accuracy, and the mean loss of each group.

    Args:
        names: of the metrics wanted, those out of :data:`TOKEN_METRICS`.
        groups: names of the groups, such as languages; each gets ``loss/<name>``.
        prefix: put before each name, such as "val_".
    """

    def __init__(self, names: Sequence[str], groups: Sequence[str], prefix: str) -> None:
        super().__init__()
        self.perplexity = Perplexity() if "perplexity" in names else None
        self.token_accuracy = torchmetrics.MeanMetric() if "token_accuracy" in names else None
        self.group_losses = torch.nn.ModuleList(MeanLoss() for _ in groups)
        self.group_names, self.prefix = tuple(groups), prefix

    def update(self, step: Step) -> None:
        """Take one batch in."""
        if self.perplexity is not None:
            # Not the loss, which holds the auxiliary loss of a mixture of experts too.
            own = step.loss_sum if step.token_losses is None else step.token_losses.sum()
            self.perplexity.update(own, step.targets)
        if self.token_accuracy is not None and step.correct is not None and step.correct.numel():
            self.token_accuracy.update(step.correct.float())
        if step.groups is None or step.token_losses is None:
            return
        for index, metric in enumerate(self.group_losses):
            mine = step.groups == index
            cast(MeanLoss, metric).update(step.token_losses[mine].sum(), mine.sum())

    def named(self) -> dict[str, torchmetrics.Metric]:
        """The metrics by the name they are logged under; the main ones, then the groups'."""
        found = {"perplexity": self.perplexity, "token_accuracy": self.token_accuracy}
        result = {self.prefix + name: metric for name, metric in found.items() if metric is not None}
        losses = {f"{self.prefix}loss/{name}": m for name, m in zip(self.group_names, self.group_losses, strict=True)}
        return cast("dict[str, torchmetrics.Metric]", result | losses)


def make_metrics(names: Sequence[str], num_labels: int, prefix: str) -> torchmetrics.MetricCollection:
    """Metrics of predicted labels (B,) int64 or values (B,) float against labels of the same shape; not those of tokens or texts.

    Args:
        names: out of :data:`LABEL_METRICS`; those of tokens and answers are passed over. f1 is that of class 1 (as GLUE counts
            it) with two classes, else macro.
        num_labels: number of classes; 1 for regression.
        prefix: put before each name, such as "val_".

    Raises:
        ValueError: an unknown name.
    """
    names = [name for name in names if name != PAIR_METRIC]
    allowed = (*LABEL_METRICS, *TOKEN_METRICS, *ANSWER_METRICS)
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise ValueError(f"make_metrics: {unknown[0]!r} is unknown; allowed are {', '.join(allowed)}.")
    made: dict[str, torchmetrics.Metric | torchmetrics.MetricCollection]
    made = {name: LABEL_METRICS[name](max(2, num_labels)) for name in names if name in LABEL_METRICS}
    return torchmetrics.MetricCollection(made, prefix=prefix)
