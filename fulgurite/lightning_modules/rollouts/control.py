"""The weight of KL, fixed or moved so that KL stays near a target (Ziegler et al. 2019, arXiv 1909.08593), and a bound on KL.

    β ← β · (1 + clip(KL / target − 1, −0.2, 0.2) · answers / horizon)

KL is that of a whole answer in nats: the sum of k3 over its tokens, averaged over the answers.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KLControl"]


@dataclass
class KLControl:
    """β and its rule.

    Args:
        beta: β, at the beginning.
        target: KL in nats per answer; None keeps β as it is.
        horizon: answers after which β may have changed by the factor 1.2.
        bound: KL in nats per answer above which the run stops; None for no bound.

    Raises:
        ValueError: a value that means nothing, or a target for a β of 0, which stays 0.
    """

    beta: float = 0.0
    target: float | None = None
    horizon: int = 10_000
    bound: float | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.beta < float("inf"):
            raise ValueError(f"RLModule: beta={self.beta}; allowed are numbers from 0")
        for name, value in (("kl_target", self.target), ("kl_bound", self.bound)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"RLModule: {name}={value}; allowed are numbers above 0, in nats per answer")
        if self.horizon < 1:
            raise ValueError(f"RLModule: kl_horizon={self.horizon}; it is a number of answers and at least 1")
        if self.target is not None and self.beta == 0:
            raise ValueError("RLModule: kl_target with beta=0, which no factor moves; give beta above 0, such as 0.05")

    def update(self, kl: float, answers: int) -> None:
        """Move β after a step.

        Args:
            kl: of the step, in nats per answer.
            answers: how many there were.
        """
        if self.target is not None:
            error = max(-0.2, min(0.2, kl / self.target - 1))
            self.beta *= 1 + error * answers / self.horizon

    def exceeded(self, kl: float) -> bool:
        """Whether the run has to stop."""
        return self.bound is not None and kl > self.bound
