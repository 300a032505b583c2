"""What the trainer says of drawn answers before it changes: log-probabilities, the reference's, values, and the advantages of all.

One pass over the trees without gradient, in the same forward that training takes, so that the first ratio is exactly 1.
"""

from __future__ import annotations

from time import perf_counter
from typing import Literal

import torch
from torch import nn

from fulgurite.lightning_modules.objectives.policy import PolicyObjective
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.lightning_modules.rollouts.credit import Credit
from fulgurite.lightning_modules.rollouts.figures import explained_variance, kl_per_answer, mismatch
from fulgurite.lightning_modules.rollouts.packs import Trees
from fulgurite.lightning_modules.rollouts.together import Whole
from fulgurite.losses.policy import Estimate, kl_estimate, sampler_weights

__all__ = ["Scoring", "on_device"]


class Scoring:
    """Gives trees the figures that the policy objective reads, and says what they show.

    Args:
        objective: the policy's.
        credit: advantages.
        reference: None where nothing is compared with one.
        in_reward: estimate of the KL that is taken off the reward; None where KL is not in the reward.
        correction: whether weights for the sampler are per "token" or per "sequence"; None for none.
        cap: the largest weight.
    """

    def __init__(
        self,
        objective: PolicyObjective,
        credit: Credit,
        reference: Reference | None,
        *,
        in_reward: Estimate | None,
        correction: Literal["token", "sequence"] | None,
        cap: float,
    ) -> None:
        self.objective, self.credit, self.reference = objective, credit, reference
        self.in_reward, self.correction, self.cap = in_reward, correction, cap

    @torch.no_grad()
    def __call__(
        self, network: nn.Module, trees: Trees, rewards: torch.Tensor, beta: float, budget: int
    ) -> dict[str, float]:
        """Put old, advantages, weights, and what else is needed; figures by name.

        Args:
            network: the policy.
            trees: with "sampler" and "counted".
            rewards: of the answers, (C,); what is compared with them are the rewards of all processes.
            beta: weight of KL.
            budget: tokens of a forward.
        """
        started = perf_counter()
        self._read(network, trees, budget)
        whole = Whole.of(trees, rewards)
        old, sampler, lengths = whole.figures["old"], whole.figures["sampler"], whole.lengths
        owner = torch.arange(len(lengths)).repeat_interleave(lengths)
        answers = len(lengths)
        weights = torch.ones_like(old)
        if self.correction is not None:
            weights = sampler_weights(old, sampler, owner, answers, self.cap, self.correction)
        whole.put("weights", weights)
        penalty = torch.zeros_like(old)
        if self.in_reward is not None:
            penalty = beta * kl_estimate(old, whole.figures["reference"], self.in_reward)
        values = whole.figures["old_values"] if self.credit.estimator == "gae" else None
        advantages, returns = self.credit(whole.rewards.to(old.dtype), whole.group, lengths, penalty, values)
        whole.put("advantages", advantages)
        figures = {"entropy": float(whole.figures["entropy"].mean()), **mismatch(old, sampler)}
        if self.reference is not None:
            figures["kl"] = kl_per_answer(old, whole.figures["reference"], answers)
        if returns is not None:
            assert values is not None
            whole.put("returns", returns)
            figures["explained_variance"] = explained_variance(values, returns)
        figures["scoring_seconds"] = perf_counter() - started
        return figures

    def _read(self, network: nn.Module, trees: Trees, budget: int) -> None:
        """Log-probabilities, entropies, values and the reference's log-probabilities of all tokens, onto the CPU."""
        found: dict[str, list[torch.Tensor]] = {"old": [], "entropy": []}
        log_probs, device = self.objective.log_probs, next(network.parameters()).device
        packs = trees.packs(range(len(trees)), budget)
        for pack in packs:
            batch = on_device(self.objective, trees.batch(pack), device)
            states, head = log_probs.states(network, batch)
            old, entropy = log_probs.with_entropy(states, head, batch["targets"])
            found["old"].append(old.cpu())
            found["entropy"].append(entropy.cpu())
            if self.objective.values is not None and head is not None:
                found.setdefault("old_values", []).append(self.objective.values(states).cpu())
        if self.reference is not None:
            with self.reference.network(network) as asked:
                found["reference"] = [
                    log_probs(asked, on_device(self.objective, trees.batch(pack), device)).cpu() for pack in packs
                ]
        for name, parts in found.items():
            trees.put(name, torch.cat(parts) if parts else torch.zeros(0))


def on_device(
    objective: PolicyObjective, batch: dict[str, torch.Tensor], device: torch.device
) -> dict[str, torch.Tensor]:
    """A pack on the device, with what the host has to know of it read before.

    Args:
        objective: whose ``on_host`` reads it.
        batch: on the CPU.
        device: where the network is.
    """
    return {k: v.to(device) if hasattr(v, "to") else v for k, v in objective.on_host(batch).items()}
