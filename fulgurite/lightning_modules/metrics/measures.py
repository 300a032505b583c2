"""What a validation or a test measures beside its loss: the interface, and the measures of labelled rows and tokens.

A module has one of these for its validation and one for its test. Preference, reward and fusion modules have their own, in the
files beside this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torchmetrics
from torch import nn

from fulgurite.lightning_modules.metrics.answering import AnswerMetrics, Answers
from fulgurite.lightning_modules.metrics.by_name import TokenMetrics, make_metrics
from fulgurite.lightning_modules.objectives.step import Batch, Step

__all__ = ["Measures", "NamedMeasures"]


class Measures(Protocol):
    """Gathers the steps of a validation or test."""

    def take(self, step: Step, batch: Batch) -> None:
        """Take one batch in."""

    def named(self) -> dict[str, torchmetrics.Metric]:
        """Metrics by the name they are logged under after every batch; Lightning computes and resets them."""

    def figures(self) -> dict[str, torch.Tensor]:
        """Figures by name, () each, that need all batches; the measures begin anew."""


class NamedMeasures(nn.Module):
    """Metrics that the datamodule names: of predicted labels and values, of tokens, and of generated answers.

    Args:
        names: of the metrics, see :func:`fulgurite.lightning_modules.metrics.by_name.make_metrics`.
        labels: number of classes; 1 for regression.
        groups: names of the groups of tokens that get a loss of their own.
        prefix: put before each name, such as "val_".
    """

    def __init__(self, names: Sequence[str], labels: int, groups: Sequence[str], prefix: str) -> None:
        super().__init__()
        self.metrics = make_metrics(names, labels, prefix)
        self.tokens = TokenMetrics(names, groups, prefix)
        self.answers = AnswerMetrics(tuple(names), prefix)
        self._answered = False

    def take(self, step: Step, batch: Batch) -> None:
        """Take one batch in."""
        if step.predictions is not None and step.predictions.numel():
            self.metrics.update(step.predictions, step.labels)
        self.tokens.update(step)

    def take_answers(self, answers: Answers, batch: Batch, data: Any, split: str) -> None:
        """Take in what a text-to-text batch was answered with; rows that only fill a batch up have no target and do not count.

        Args:
            answers: classes or texts.
            batch: with labels (B, T), and its rows' positions in the split, ``row`` (B,).
            data: the datamodule, which knows the right answers.
            split: "val" or "test".
        """
        counted = (batch["labels"] != -100).any(1).tolist()
        right = data.references(split, batch["row"].tolist())
        right = [texts if real else () for texts, real in zip(right, counted, strict=True)]
        if answers.texts is not None:
            self.answers.update(answers.texts, right)
        elif answers.classes is not None:
            known = [i for i, texts in enumerate(right) if texts]
            device = batch["labels"].device
            labels = torch.tensor([data.label_names.index(right[i][0]) for i in known], device=device)
            self.metrics.update(answers.classes.to(device)[known], labels)
        self._answered = True

    def named(self) -> dict[str, torchmetrics.Metric]:
        """The metrics of labels and tokens, and those of answers where there were any."""
        found: Any = dict(self.metrics.items())
        return {**(self.answers.named() if self._answered else {}), **found, **self.tokens.named()}

    def figures(self) -> dict[str, torch.Tensor]:
        """None: all are metrics that Lightning computes."""
        return {}
