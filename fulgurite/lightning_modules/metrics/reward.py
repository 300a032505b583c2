"""What a reward model is judged by, over a whole validation: order, margin, calibration, and how far it only measures length.

With Δ = r_chosen − r_rejected of each of P pairs:

    accuracy          share of Δ > 0, a tie counts half; with Wilson's 95 % interval
    calibration       σ(|Δ|) is the model's confidence in its order: the expected calibration error is the mean over ten bins of
                      [½, 1] of |share in the right order − mean confidence|, weighted by pairs (Guo et al. 2017, arXiv 1706.04599)
    length            Pearson's correlation of reward and tokens over completions; and of Δ and the difference of tokens over pairs
    signs             share of chosen rewards above zero and of rejected ones below: what L_DR asks for
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torchmetrics

from fulgurite.lightning_modules.metrics.preference import wilson_interval
from fulgurite.lightning_modules.objectives.step import Batch, Step

__all__ = ["RewardMetrics", "Reliability", "reliability"]

_BINS = 10


class Reliability(NamedTuple):
    """Mean confidence, share in the right order and pairs of each bin, (bins,) each; empty bins are left out."""

    confidence: torch.Tensor
    accuracy: torch.Tensor
    pairs: torch.Tensor

    def error(self) -> float:
        """The expected calibration error."""
        weights = self.pairs / self.pairs.sum()
        return float((weights * (self.confidence - self.accuracy).abs()).sum())


def reliability(lead: torch.Tensor, bins: int = _BINS) -> Reliability:
    """The bins of Δ (P,), P at least 1."""
    lead = lead.double()
    confidence = torch.sigmoid(lead.abs())
    right = (lead > 0).double() + 0.5 * (lead == 0)
    place = ((confidence - 0.5) * 2 * bins).long().clamp(0, bins - 1)
    sizes = torch.bincount(place, minlength=bins)
    there = sizes > 0

    def means(values: torch.Tensor) -> torch.Tensor:
        return (
            torch.zeros(bins, dtype=torch.float64, device=lead.device).index_add_(0, place, values) / sizes.clamp(min=1)
        )[there]

    return Reliability(means(confidence), means(right), sizes[there])


class RewardMetrics(torchmetrics.Metric):
    """Keeps the rewards and lengths of all pairs and completions; ``compute`` gives figures by name."""

    chosen: list[torch.Tensor]
    rejected: list[torch.Tensor]
    length_lead: list[torch.Tensor]
    rewards: list[torch.Tensor]
    lengths: list[torch.Tensor]

    def __init__(self) -> None:
        super().__init__()
        for name in ("chosen", "rejected", "length_lead", "rewards", "lengths"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, rewards: torch.Tensor, lengths: torch.Tensor, pairs: torch.Tensor) -> None:
        """Add one batch.

        Args:
            rewards: of its completions, (C,).
            lengths: their tokens, (C,) int64.
            pairs: indices of the chosen and the rejected completion, (P, 2) int64.
        """
        rewards, lengths = rewards.detach().float(), lengths.float()
        chosen, rejected = pairs.unbind(1)
        used = pairs.unique()
        self.rewards.append(rewards[used])
        self.lengths.append(lengths[used])
        self.chosen.append(rewards[chosen])
        self.rejected.append(rewards[rejected])
        self.length_lead.append(lengths[chosen] - lengths[rejected])

    def take(self, step: Step, batch: Batch) -> None:
        """Add the rewards and pairs of one step."""
        self.update(step.details["rewards"], batch["lengths"], step.details["pairs"])

    def named(self) -> dict[str, torchmetrics.Metric]:
        """Empty: the figures are computed from all batches."""
        return {}

    def figures(self) -> dict[str, torch.Tensor]:
        """What :meth:`compute` gives; then the lists begin anew."""
        found: dict[str, torch.Tensor] = self.compute()
        self.reset()
        return found

    def drawn(self) -> dict[str, torch.Tensor]:
        """What pictures show, on the CPU: :meth:`values`, and the bins of :func:`reliability` where there is a pair."""
        values = {name: value.cpu() for name, value in self.values().items()}
        if len(values["chosen"]):
            values |= reliability(values["chosen"] - values["rejected"])._asdict()
        return values

    def values(self) -> dict[str, torch.Tensor]:
        """What was kept: chosen and rejected (P,), length_lead (P,), rewards and lengths (C,), float32."""
        names = ("chosen", "rejected", "length_lead", "rewards", "lengths")
        return {name: _joined(getattr(self, name)) for name in names}

    def constant(self) -> bool:
        """Whether at least four completions were seen and all have the same reward."""
        rewards = _joined(self.rewards)
        return rewards.numel() >= 4 and bool((rewards == rewards[0]).all())

    def compute(self) -> dict[str, torch.Tensor]:
        """Figures by name, () float32; none without a pair. Correlations with something constant are left out."""
        seen = self.values()
        chosen, rejected = seen["chosen"], seen["rejected"]
        if not chosen.numel():
            return {}
        lead = chosen - rejected
        share = float(((lead > 0).double() + 0.5 * (lead == 0)).mean())
        low, high = wilson_interval(share, lead.numel())
        figures = {
            "rewards/accuracies": share,
            "rewards/accuracies_low": low,
            "rewards/accuracies_high": high,
            "rewards/margins": float(lead.double().mean()),
            "rewards/chosen": float(chosen.double().mean()),
            "rewards/rejected": float(rejected.double().mean()),
            "rewards/spread": float(seen["rewards"].double().std(correction=0)),
            "rewards/chosen_above_zero": float((chosen > 0).double().mean()),
            "rewards/rejected_below_zero": float((rejected < 0).double().mean()),
            "rewards/calibration_error": reliability(lead).error(),
            "rewards/length_correlation": _correlation(seen["rewards"], seen["lengths"]),
            "rewards/length_correlation_in_pairs": _correlation(lead, seen["length_lead"]),
        }
        return {name: torch.tensor(value) for name, value in figures.items() if value is not None}


def _joined(state: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """What is kept as one tensor: after a synchronisation over ranks it is one already."""
    if isinstance(state, torch.Tensor):
        return state
    return torch.cat(state) if state else torch.zeros(0)


def _correlation(first: torch.Tensor, second: torch.Tensor) -> float | None:
    """Pearson's, or None where one of the two does not vary."""
    first, second = first.double() - first.double().mean(), second.double() - second.double().mean()
    scale = float(first.norm() * second.norm())
    return float(first @ second) / scale if scale > 0 else None
