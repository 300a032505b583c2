r"""Losses of reinforcement learning on answers that a policy drew: the clipped surrogate, KL estimates, values.

With ℓ the log-probability of a drawn token under the policy, ℓ_old under the policy before the update, ℓ_ref under the reference,
ℓ_μ under the sampler, A its advantage, per token

    ρ       exp(ℓ − ℓ_old);  "sequence": exp(mean over the answer's tokens)    PPO, arXiv 1707.06347; GSPO, arXiv 2507.18071
    loss    −min(ρ A, clip(ρ, 1 − ε, 1 + ε_high) A)                            ε_high: DAPO, arXiv 2503.14476
            and for A < 0 at most −δ A ("dual clip")                           Ye et al. 2020, arXiv 1912.09729
    k1      ℓ − ℓ_ref                                                          Schulman 2020, "Approximating KL divergence"
    k2      ½ (ℓ − ℓ_ref)²
    k3      exp(ℓ_ref − ℓ) − 1 + ℓ − ℓ_ref
    w       min(exp(ℓ_old − ℓ_μ), C), without gradient, times the loss         where sampler and trainer compute differently
    value   ½ max((V − R)², (clip(V, V_old ± c) − R)²)

and the mean over all tokens ("token", DAPO), of each answer's mean ("answer", GRPO), or the sum divided by answers × longest length
("constant", Dr. GRPO, arXiv 2503.20783). Tokens lie one behind the other, (K,), with the number of their answer, ``owner``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

__all__ = [
    "KL_ESTIMATES",
    "MEANS",
    "PolicyLoss",
    "PolicyTokens",
    "answer_means",
    "kl_estimate",
    "sampler_weights",
    "value_loss",
]

Estimate = Literal["k1", "k2", "k3"]
TokenMean = Literal["token", "answer", "constant"]
Level = Literal["token", "sequence"]

KL_ESTIMATES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "k1": lambda difference: difference,
    "k2": lambda difference: 0.5 * difference.square(),
    "k3": lambda difference: torch.expm1(-difference) + difference,
}
MEANS = ("token", "answer", "constant")
LEVELS = ("token", "sequence")


class PolicyTokens(NamedTuple):
    """The surrogate of a batch.

    Attributes:
        losses: of each token, (K,).
        ratios: ρ of each token, (K,), without gradient.
        clipped_low: where clipping at 1 − ε stopped the gradient, (K,) bool.
        clipped_high: where clipping at 1 + ε_high did, (K,) bool.
    """

    losses: torch.Tensor
    ratios: torch.Tensor
    clipped_low: torch.Tensor
    clipped_high: torch.Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """The clipped surrogate and its mean.

    Args:
        clip: ε.
        clip_high: ε_high; None takes ε.
        dual_clip: δ, above 1; None for none.
        ratio: "token", or "sequence" for one ratio per answer.
        mean: "token", "answer" or "constant".
        longest: tokens of an answer at most, which "constant" divides by.

    Raises:
        ValueError: a value out of its range.
    """

    clip: float = 0.2
    clip_high: float | None = None
    dual_clip: float | None = None
    ratio: Level = "token"
    mean: TokenMean = "token"
    longest: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.clip < 1 or (self.clip_high is not None and not 0 < self.clip_high < float("inf")):
            raise ValueError(
                f"PolicyLoss: clip={self.clip}, clip_high={self.clip_high}; allowed are 0 < clip < 1 and clip_high above 0"
            )
        if self.dual_clip is not None and not 1 + self.high <= self.dual_clip < float("inf"):
            raise ValueError(
                f"PolicyLoss: dual_clip={self.dual_clip}; it is a bound on the ratio and must be at least 1 + clip_high; 3 is usual"
            )
        for name, value, allowed in (("ratio", self.ratio, LEVELS), ("mean", self.mean, MEANS)):
            if value not in allowed:
                raise ValueError(f"PolicyLoss: {name}={value!r}; allowed are {', '.join(map(repr, allowed))}")
        if self.longest < 1:
            raise ValueError(f"PolicyLoss: longest={self.longest}; an answer may have at least one token")

    @property
    def high(self) -> float:
        """ε_high."""
        return self.clip if self.clip_high is None else self.clip_high

    def tokens(
        self, log_probs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, owner: torch.Tensor, answers: int
    ) -> PolicyTokens:
        """The surrogate of each token.

        Args:
            log_probs: ℓ, (K,).
            old: ℓ_old, (K,), without gradient.
            advantages: (K,).
            owner: number of each token's answer, (K,) int64.
            answers: how many there are.
        """
        difference = log_probs - old
        if self.ratio == "sequence":
            difference = answer_means(difference, owner, answers)[owner]
        ratios = difference.exp()
        inside = ratios.clamp(1 - self.clip, 1 + self.high)
        losses = -torch.minimum(ratios * advantages, inside * advantages)
        if self.dual_clip is not None:
            losses = torch.where(advantages < 0, torch.minimum(losses, -self.dual_clip * advantages), losses)
        found = ratios.detach()
        low = (found < 1 - self.clip) & (advantages < 0)
        return PolicyTokens(losses, found, low, (found > 1 + self.high) & (advantages > 0))

    def summed(self, losses: torch.Tensor, owner: torch.Tensor, answers: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Numerator () and denominator () int64 of the mean; each adds over the batches of an optimizer step.

        Args:
            losses: of each token, (K,).
            owner: number of each token's answer, (K,) int64.
            answers: how many there are, each with a token.
        """
        total = answer_means(losses, owner, answers).sum() if self.mean == "answer" else losses.sum()
        return total, owner.new_tensor(self.denominator(losses.numel(), answers))

    def denominator(self, tokens: int, answers: int) -> int:
        """What a sum is divided by.

        Args:
            tokens: of all answers.
            answers: how many there are.
        """
        return {"token": tokens, "answer": answers, "constant": answers * self.longest}[self.mean]


def answer_means(values: torch.Tensor, owner: torch.Tensor, answers: int) -> torch.Tensor:
    """The mean of each answer's tokens, (answers,); 0 for one without a token.

    Args:
        values: of each token, (K,).
        owner: number of each token's answer, (K,) int64.
        answers: how many there are.
    """
    totals = values.new_zeros(answers).index_add(0, owner, values)
    return totals / torch.bincount(owner, minlength=answers).clamp(min=1)


def kl_estimate(log_probs: torch.Tensor, reference: torch.Tensor, estimate: Estimate = "k3") -> torch.Tensor:
    """An estimate of KL(policy ‖ reference) from each drawn token, (K,).

    k1 is unbiased and may be negative; k3 is unbiased and never negative; k2 is biased and has the gradient of the true KL.

    Args:
        log_probs: ℓ, (K,).
        reference: ℓ_ref, (K,).
        estimate: "k1", "k2" or "k3".

    Raises:
        ValueError: another name.
    """
    if estimate not in KL_ESTIMATES:
        raise ValueError(f"kl_estimate: estimate={estimate!r}; allowed are {', '.join(map(repr, KL_ESTIMATES))}")
    return KL_ESTIMATES[estimate](log_probs - reference)


@torch.no_grad()
def sampler_weights(
    old: torch.Tensor,
    sampler: torch.Tensor,
    owner: torch.Tensor,
    answers: int,
    cap: float = 3.0,
    level: Level = "token",
) -> torch.Tensor:
    """Importance weights of the trainer's policy against the sampler's, at most ``cap``, (K,), without gradient.

    Args:
        old: ℓ_old, the trainer's, (K,).
        sampler: ℓ_μ, (K,).
        owner: number of each token's answer, (K,) int64.
        answers: how many there are.
        cap: C.
        level: "token", or "sequence" for one weight per answer: the product of its tokens'.
    """
    difference = old - sampler
    if level == "sequence":
        difference = difference.new_zeros(answers).index_add(0, owner, difference)[owner]
    return difference.exp().clamp(max=cap)


def value_loss(
    values: torch.Tensor, old: torch.Tensor, returns: torch.Tensor, clip: float | None = 0.2
) -> torch.Tensor:
    """Squared error of each token's value, the worse of the clipped and the free one, halved, (K,).

    Args:
        values: V, (K,).
        old: V_old, before the update, (K,).
        returns: R, (K,).
        clip: how far V may move from V_old before clipping; None for no clipping.
    """
    free = (values - returns).square()
    if clip is None:
        return 0.5 * free
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum(free, (near - returns).square())
