"""What a validation or test of a policy measures: rewards, lengths and cut answers over all prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torchmetrics

from fulgurite.lightning_modules.objectives.step import Batch, Step
from fulgurite.lightning_modules.processes.agreeing import gathered
from fulgurite.lightning_modules.rollouts.drawing import Group

__all__ = ["DrawnAnswers"]


class DrawnAnswers:
    """Gathers the answers of a validation or test; see :class:`fulgurite.lightning_modules.metrics.measures.Measures`."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def take_groups(self, groups: Sequence[Group]) -> None:
        """Take the answers to some prompts in."""
        for answer in (answer for group in groups for answer in group.answers):
            parts = (
                {f"reward/{name}": value for name, value in answer.rewards.items()} if len(answer.rewards) > 1 else {}
            )
            more = {"length": float(len(answer.tokens)), "truncated": float(answer.cut)}
            for name, value in {"reward": answer.reward, **parts, **more}.items():
                if math.isfinite(value):
                    self._values.setdefault(name, []).append(value)

    def take(self, step: Step, batch: Batch) -> None:
        """Nothing: there is no loss of drawn answers outside training."""

    def named(self) -> dict[str, torchmetrics.Metric]:
        """Empty: the figures are computed from all batches."""
        return {}

    def figures(self) -> dict[str, Any]:
        """Means over the answers of all processes by name; then they begin anew."""
        every: dict[str, list[float]] = {}
        for share in gathered(self._values):
            for name, values in share.items():
                every.setdefault(name, []).extend(values)
        self._values = {}
        return {name: torch.tensor(sum(values) / len(values)) for name, values in every.items()}
