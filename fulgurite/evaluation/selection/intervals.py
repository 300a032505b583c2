"""Means over prompts with intervals by bootstrap: prompts are drawn anew, 2000 times; percentiles of the means.

Where every prompt has the same value all resamples are alike, and the bootstrap would claim to know the mean exactly. A share that
is 0 or 1 throughout gets Wilson's interval in its place; any other number gets none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from fulgurite.evaluation.runner.statistics import mean_of

__all__ = ["Bootstrap", "Estimate"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval, None where none can be known; NaN where no prompt has a value."""

    value: float
    low: float | None
    high: float | None

    def to_dict(self) -> dict[str, float | None]:
        """Plain data for JSON, which knows no NaN."""
        return {"value": None if math.isnan(self.value) else self.value, "low": self.low, "high": self.high}


class Bootstrap:
    """Resamples of prompts, the same for every number, so that differences are paired.

    Args:
        prompts: how many there are.
        seed: of the resamples.
    """

    def __init__(self, prompts: int, seed: int) -> None:
        self._weights = np.random.default_rng(seed).multinomial(prompts, [1 / prompts] * prompts, _RESAMPLES)

    def estimate(self, values: Any, share: bool = False) -> Estimate:
        """The mean of a value over prompts with its interval.

        Args:
            values: (P,), one of each prompt; NaN where a prompt has none.
            share: whether the values are shares of right answers, 0 to 1.
        """
        known = ~np.isnan(values)
        if not known.any():
            return Estimate(math.nan, None, None)
        mean = float(values[known].mean())
        if share and (np.all(values[known] == 0) or np.all(values[known] == 1)):
            wilson = mean_of([float(value) for value in values[known]])
            return Estimate(mean, wilson.low, wilson.high)
        if np.all(values[known] == values[known][0]):
            return Estimate(mean, None, None)
        counts = self._weights @ known
        means = (self._weights @ np.where(known, values, 0.0))[counts > 0] / counts[counts > 0]
        low, high = np.percentile(means, [2.5, 97.5])
        return Estimate(mean, float(low), float(high))
