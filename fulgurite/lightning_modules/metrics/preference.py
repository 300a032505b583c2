"""Preference metrics over a whole validation, the same for any number of ranks, with an interval for the pair accuracy."""

from __future__ import annotations

import math

import torch
import torchmetrics

from fulgurite.lightning_modules.objectives.step import Batch, Step
from fulgurite.losses import Mean, means

__all__ = ["PreferenceMetrics", "wilson_interval"]

_NAMES = (
    "rewards/chosen",
    "rewards/rejected",
    "rewards/accuracies",
    "rewards/margins",
    "logps/chosen",
    "logps/rejected",
    "rewards/desirable",
    "rewards/undesirable",
    "logps/desirable",
    "logps/undesirable",
    "kl",
)
_ACCURACY = "rewards/accuracies"


class PreferenceMetrics(torchmetrics.Metric):
    """Sums of :func:`fulgurite.losses.preference_metrics`; ``compute`` gives means, and Wilson's 95 % interval of the accuracy.

    The interval takes pairs as independent; pairs that share a prompt are not quite, so with several pairs per prompt it
    is somewhat too narrow.
    """

    totals: torch.Tensor
    numbers: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("totals", torch.zeros(len(_NAMES), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("numbers", torch.zeros(len(_NAMES), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, found: dict[str, Mean]) -> None:
        """Add one batch's sums."""
        for name, mean in found.items():
            if name in _NAMES:
                self.totals[_NAMES.index(name)] += mean.total.double()
                self.numbers[_NAMES.index(name)] += mean.number

    def take(self, step: Step, batch: Batch) -> None:
        """Add the sums of one step."""
        self.update(dict(step.metrics))

    def named(self) -> dict[str, torchmetrics.Metric]:
        """Empty: the figures are computed from all batches."""
        return {}

    def figures(self) -> dict[str, torch.Tensor]:
        """What :meth:`compute` gives; then the sums begin anew."""
        found: dict[str, torch.Tensor] = self.compute()
        self.reset()
        return found

    def compute(self) -> dict[str, torch.Tensor]:
        """Means by name, () float32; ``rewards/accuracies_low`` and ``_high`` with them."""
        sums = {n: Mean(t, k) for n, t, k in zip(_NAMES, self.totals, self.numbers, strict=True)}
        result = {name: value.float() for name, value in means(sums).items()}
        if _ACCURACY in result:
            count = int(self.numbers[_NAMES.index(_ACCURACY)])
            for end, value in zip(("low", "high"), wilson_interval(float(result[_ACCURACY]), count), strict=True):
                result[f"{_ACCURACY}_{end}"] = torch.tensor(value)
        return result


def wilson_interval(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval of a share (J. Am. Stat. Assoc. 22, 1927).

    Args:
        share: successes / count, 0 to 1.
        count: number of trials, at least 1.
        z: quantile of the normal distribution; 1.96 for 95 %.
    """
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)
