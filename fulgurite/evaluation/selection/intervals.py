"""Means over prompts with intervals by bootstrap: prompts are drawn anew, 2000 times; percentiles of the means."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Bootstrap", "Estimate"]

_RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean over prompts with its 95 % interval, without one for a single prompt; NaN where no prompt has a value."""

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

    def estimate(self, values: Any) -> Estimate:
        """The mean of a value over prompts with its interval.

        Args:
            values: (P,), one of each prompt; NaN where a prompt has none.
        """
        known = ~np.isnan(values)
        if not known.any():
            return Estimate(math.nan, None, None)
        mean = float(values[known].mean())
        if known.sum() < 2:
            return Estimate(mean, None, None)
        counts = self._weights @ known
        means = (self._weights @ np.where(known, values, 0.0))[counts > 0] / counts[counts > 0]
        low, high = np.percentile(means, [2.5, 97.5])
        return Estimate(mean, float(low), float(high))
