"""What to watch in preference training, under the names that TRL's users know, as sums that add over batches and ranks.

    pairs and groups   rewards/chosen, rewards/rejected, rewards/accuracies, rewards/margins, logps/chosen, logps/rejected
    labels (KTO)       rewards/desirable, rewards/undesirable, logps/desirable, logps/undesirable, rewards/margins, kl

Watch rewards/chosen, not the margin alone: under DPO it may fall while the margin grows. In the accuracy a tie counts half
(TRL: nothing), so that an untrained policy has 0.5. K completions count as all their pairs of different score.
"""

from __future__ import annotations

import torch

from fulgurite.losses.completions import Completions, Mean, checked_index, checked_pairs, count_of
from fulgurite.losses.groupwise import pairs_of_groups
from fulgurite.losses.preference import PreferenceLoss

__all__ = ["means", "preference_metrics"]


@torch.no_grad()
def preference_metrics(
    loss: PreferenceLoss,
    completions: Completions,
    *,
    pairs: torch.Tensor | None = None,
    desirable: torch.Tensor | None = None,
    kl: torch.Tensor | None = None,
    examples: torch.Tensor | None = None,
    group: torch.Tensor | None = None,
    scores: torch.Tensor | None = None,
) -> dict[str, Mean]:
    """Sums and counts by name. ``pairs`` may be given for any loss, to compare KTO with DPO on the same pairs.

    Args:
        loss: says what a reward is.
        completions: C completions.
        pairs: indices of the chosen and the rejected completion, (P, 2) int64.
        desirable: label of each example, (U,) bool.
        kl: z0 of KTO, ().
        examples: indices of the completions that are examples, (U,) int64; None if all are.
        group: group of each completion, (C,) int64; -1 for none.
        scores: score of each completion, (C,).
    """
    rewards, log_probs = loss.rewards(completions), completions.sums
    if pairs is None and group is not None and scores is not None:
        pairs = pairs_of_groups(group, scores)
    if pairs is not None:
        chosen, rejected = checked_pairs(pairs, "preference_metrics")
        lead = rewards[chosen] - rewards[rejected]
        found = {
            "rewards/chosen": rewards[chosen],
            "rewards/rejected": rewards[rejected],
            "rewards/accuracies": (lead > 0).to(lead.dtype) + 0.5 * (lead == 0),
            "rewards/margins": lead,
            "logps/chosen": log_probs[chosen],
            "logps/rejected": log_probs[rejected],
        }
        return {name: Mean(values.sum(), count_of(values.numel(), values)) for name, values in found.items()}
    if desirable is None:
        raise ValueError(
            "preference_metrics: neither pairs, nor desirable, nor group and scores were given; give one of them"
        )
    if examples is not None:
        index = checked_index(examples, "preference_metrics")
        rewards, log_probs = rewards[index], log_probs[index]
    sums = {}
    for label, mask in (("desirable", desirable), ("undesirable", ~desirable)):
        sums[f"rewards/{label}"] = Mean(torch.where(mask, rewards, 0.0).sum(), mask.sum())
        sums[f"logps/{label}"] = Mean(torch.where(mask, log_probs, 0.0).sum(), mask.sum())
    if kl is not None:
        sums["kl"] = Mean(kl.detach().clamp(min=0), count_of(1, kl))
    return sums


def means(sums: dict[str, Mean]) -> dict[str, torch.Tensor]:
    """The means, () each, of sums that were added up. A mean of nothing is left out, as of a label that did not occur.

    KTO's rewards/margins, the difference of two means, is formed here because it is no mean itself.

    Args:
        sums: from :func:`preference_metrics`.
    """
    if not sums:
        return {}
    numbers = torch.stack([mean.number for mean in sums.values()]).tolist()  # one wait for a GPU, not one for each
    found = {name: mean.value() for (name, mean), number in zip(sums.items(), numbers, strict=True) if number}
    if "rewards/desirable" in found and "rewards/undesirable" in found:
        found["rewards/margins"] = found["rewards/desirable"] - found["rewards/undesirable"]
    return found
