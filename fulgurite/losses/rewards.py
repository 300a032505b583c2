"""Losses of a reward model: a scalar r per completion, r_c of the better and r_r of the worse one of a pair.

    Bradley-Terry   −log σ(r_c − r_r − m)                  m: margin, as Llama 2 and UltraRM (arXiv 2310.01377) have it
    direct          −log σ(r_c) − log σ(−r_r)              Eurus's L_DR (arXiv 2404.02078, section 3)
    centring        c · (r_c + r_r)²                       Eisenstein et al. 2023, arXiv 2312.09244

Bradley-Terry leaves an additive constant of r free for each prompt. The direct term fixes it: 0 divides right from wrong.
Eurus adds it, with weight 1, for UltraInteract's pairs only, hence a flag per pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fulgurite.losses.completions import LossParts, at_least_float32, checked_pairs, weighed
from fulgurite.losses.pairwise import biased_nca_pair, logistic

__all__ = ["RewardLoss"]


@dataclass(frozen=True)
class RewardLoss:
    """Bradley-Terry with margins, direct rewards for flagged pairs, centring.

    Args:
        ranking_weight: weight of the Bradley-Terry term; 0 leaves it out (Eurus's ablation).
        direct_weight: weight of the direct term, of flagged pairs only.
        centring: weight c of the centring term (0.01 is usual).
    """

    ranking_weight: float = 1.0
    direct_weight: float = 1.0
    centring: float = 0.0

    def __post_init__(self) -> None:
        for option in ("ranking_weight", "direct_weight", "centring"):
            if not 0 <= getattr(self, option) < float("inf"):
                raise ValueError(f"RewardLoss: {option} is {getattr(self, option)}; it must be finite and 0 or more")

    def __call__(
        self,
        rewards: torch.Tensor,
        pairs: torch.Tensor,
        *,
        margin: torch.Tensor | None = None,
        direct: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
    ) -> LossParts:
        """The loss of P pairs, in float32 or wider.

        Args:
            rewards: of each completion, (C,); gradients flow here.
            pairs: indices of the chosen and the rejected completion, (P, 2) int64.
            margin: by how much the chosen one should lead, (P,); 0 where only the order is known.
            direct: which pairs get the direct term, (P,) bool; None for no pair.
            weight: factor of each pair's loss, (P,); not renormalised.
        """
        if rewards.dim() != 1:
            raise ValueError(
                f"RewardLoss: rewards of shape {tuple(rewards.shape)}; (C,) is needed; squeeze the head's output"
            )
        chosen_index, rejected_index = checked_pairs(pairs, "RewardLoss")
        for name, value in (("margin", margin), ("direct", direct)):
            if value is not None and value.shape != chosen_index.shape:
                raise ValueError(
                    f"RewardLoss: {name} of shape {tuple(value.shape)}; one {name} for each of the {pairs.shape[0]} pairs is needed"
                )
        values = at_least_float32(rewards)
        chosen, rejected = values[chosen_index], values[rejected_index]
        lead = chosen - rejected if margin is None else chosen - rejected - margin.to(values.dtype)
        losses = self.ranking_weight * logistic(lead)
        if direct is not None:
            losses = losses + torch.where(direct.bool(), self.direct_weight * biased_nca_pair(chosen, rejected), 0.0)
        if self.centring:
            losses = losses + self.centring * (chosen + rejected).square()
        return weighed(losses, weight, "RewardLoss")
