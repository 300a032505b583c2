"""Who gets credit for a reward: options of the advantages, and their one memory, REINFORCE's moving mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from fulgurite.losses.advantages import Scale, gae, group_relative, leave_one_out, moving_baseline, whitened

__all__ = ["ESTIMATORS", "Credit", "Estimator"]

Estimator = Literal["gae", "rloo", "group", "reinforce"]
ESTIMATORS = ("gae", "rloo", "group", "reinforce")


@dataclass
class Credit:
    """Advantages of a step's tokens; see :mod:`fulgurite.losses.advantages`.

    Args:
        estimator: "gae", "rloo", "group" or "reinforce".
        scale: of "group": divide by the standard deviation of the group, of the batch, or not at all.
        gamma: of "gae".
        lam: of "gae".
        whiten: of "gae": mean 0 and variance 1 over the tokens of the step.
        decay: of "reinforce": share of the old mean in the new one.
        mean: of "reinforce": the mean of earlier steps.
    """

    estimator: Estimator
    scale: Scale = "group"
    gamma: float = 1.0
    lam: float = 0.95
    whiten: bool = True
    decay: float = 0.9
    mean: float | None = None

    def __call__(
        self,
        rewards: torch.Tensor,
        group: torch.Tensor,
        lengths: torch.Tensor,
        penalty: torch.Tensor,
        values: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Advantages (K,), and for "gae" returns (K,).

        Args:
            rewards: of the answers, (C,).
            group: of each answer, (C,) int64, counted from 0.
            lengths: tokens of each answer, (C,) int64.
            penalty: what is taken off the reward at each token, β·KL, (K,).
            values: of the state before each token, (K,); of "gae" alone.
        """
        owner = torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)
        if self.estimator == "gae":
            assert values is not None
            steps = -penalty
            last = lengths.cumsum(0) - 1
            steps = steps.index_add(0, last, rewards.to(steps.dtype))
            found = gae(steps, values, lengths, self.gamma, self.lam)
            return (whitened(found.advantages) if self.whiten else found.advantages), found.returns
        whole = rewards - torch.zeros_like(rewards).index_add(0, owner, penalty.to(rewards.dtype))
        if self.estimator == "rloo":
            advantages = leave_one_out(whole, group)
        elif self.estimator == "group":
            advantages = group_relative(whole, group, self.scale)
        else:
            advantages, self.mean = moving_baseline(self.mean, whole, self.decay)
        return advantages[owner], None
