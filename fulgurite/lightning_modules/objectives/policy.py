"""The policy objective: the clipped surrogate over trees of drawn answers, KL to a reference, and a value head's loss.

A batch is what :class:`fulgurite.data.trees.rows.TreeCollator` makes of drawn answers, with more for each of their K tokens:

| key | meaning |
|---|---|
| old | log-probability under the policy before the update |
| advantages | |
| weights | correction for the sampler, 1 where none is needed |
| counted | bool; tokens that the loss leaves out are False |
| reference | log-probability under the reference, where KL is in the loss |
| old_values, returns | where values are learnt |

and () each: beta, the weight of KL in the loss; tokens_in_window and counted_in_window, the denominators of the policy's and of the
value's mean over the whole optimizer step (without them those of the batch). Losses: :mod:`fulgurite.losses.policy`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from fulgurite.lightning_modules.objectives.completions import TokenLogProbs
from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step
from fulgurite.losses import Mean
from fulgurite.losses.policy import Estimate, PolicyLoss, kl_estimate, value_loss

__all__ = ["PolicyObjective"]


class PolicyObjective(Objective):
    """The loss of drawn answers.

    Args:
        loss: the surrogate and its mean.
        temperature: of the sampler.
        kl: estimate of the KL in the loss; None where there is none.
        values: gives the value (K,) of hidden states (K, H); None without a value head.
        value_weight: factor of the value loss.
        value_clip: see :func:`fulgurite.losses.policy.value_loss`.
    """

    name = "the policy loss"
    main = "reward"
    metric_names = ("reward",)

    def __init__(
        self,
        loss: PolicyLoss,
        *,
        temperature: float = 1.0,
        kl: Estimate | None = None,
        values: Callable[[torch.Tensor], torch.Tensor] | None = None,
        value_weight: float = 0.1,
        value_clip: float | None = 0.2,
    ) -> None:
        self.loss, self.kl = loss, kl
        self.values, self.value_weight, self.value_clip = values, value_weight, value_clip
        self.log_probs = TokenLogProbs(temperature)

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Numerator and denominator of the mean loss, with clip shares and the largest ratio."""
        states, head = self.log_probs.states(network, batch)
        if self.values is not None and head is None:
            raise ValueError(
                f"PolicyObjective: {type(network).__name__} gives no hidden states beside its logits, which a value head needs; "
                "take the advantages rloo, group or reinforce"
            )
        log_probs = self.log_probs.of(states, head, batch["targets"])
        kept = batch["counted"].nonzero().squeeze(1)
        named, owner = torch.unique(batch["owner"][kept], return_inverse=True)
        answers, log_probs = len(named), log_probs[kept]
        found = self.loss.tokens(log_probs, batch["old"][kept], batch["advantages"][kept], owner, answers)
        losses = found.losses * batch["weights"][kept]
        if self.kl is not None:
            losses = losses + batch["beta"] * kl_estimate(log_probs, batch["reference"][kept], self.kl)
        total, count = self.loss.summed(losses, owner, answers)
        number = count.new_tensor(len(kept))
        metrics = {
            "clip_low": Mean(found.clipped_low.sum().float(), number),
            "clip_high": Mean(found.clipped_high.sum().float(), number),
        }
        if self.values is not None:
            values = self.values(states[kept])
            value = value_loss(values, batch["old_values"][kept], batch["returns"][kept], self.value_clip).sum()
            metrics["value_loss"] = Mean(value.detach(), number)
            # Its own mean is over tokens, whatever the policy's is over.
            share = batch.get("tokens_in_window", count) / batch.get("counted_in_window", number).clamp(min=1)
            total = total + self.value_weight * value * share
        largest = found.ratios.max() if len(kept) else total.new_tensor(1.0)
        return Step(total, count, metrics=metrics, details={"ratio_max": largest})
