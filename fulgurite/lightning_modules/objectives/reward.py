"""The reward objective: rewards of completions, and a loss over pairs or groups of them.

See :mod:`fulgurite.lightning_modules.reward` for the equations.
"""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.lightning_modules.objectives.completions import CompletionRewards
from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step
from fulgurite.losses import Mean, RewardLoss, group_table, kway_loss, pairs_of_groups

__all__ = ["REWARD_LOSSES", "RewardObjective"]

REWARD_LOSSES = {"bradley_terry": "pairs", "infonca": "groups", "nca_kway": "groups"}  # name: what a unit is


class RewardObjective(Objective):
    """A loss over rewards; its Step's details are ``rewards`` (C,) and ``pairs`` (P, 2): chosen and rejected completion.

    Args:
        name: a key of :data:`REWARD_LOSSES`.
        loss: of pairs.
        use_margin: subtract each pair's margin.
        temperature: of K-way losses' soft labels.
    """

    main = "rewards/accuracies"
    metric_names = (main,)

    def __init__(self, name: str, loss: RewardLoss, *, use_margin: bool = False, temperature: float = 1.0) -> None:
        self.name, self.reads = name, REWARD_LOSSES[name]
        self.loss, self.use_margin, self.temperature = loss, use_margin, temperature
        self.rewards = CompletionRewards()
        self._margins: torch.Tensor | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss over the batch's pairs or groups."""
        rewards = self.rewards(network, batch)
        if self.reads == "groups":
            group, scores = batch["group"], batch["score"]
            parts = kway_loss(self.name, rewards, group, scores, self.temperature, batch.get("table"))
            pairs = batch["compared"] if "compared" in batch else pairs_of_groups(group, scores)
        else:
            pairs = batch["pairs"]
            if self.use_margin and torch.is_grad_enabled():
                found = (batch["pair_margin"] != 0).any()
                self._margins = found if self._margins is None else self._margins | found
            parts = self.loss(
                rewards,
                pairs,
                margin=batch["pair_margin"] if self.use_margin else None,
                direct=batch.get("pair_direct"),
                weight=batch["pair_weight"],
            )
        rewards = rewards.detach()
        return Step(
            parts.loss_sum,
            parts.units,
            metrics=_figures(rewards, pairs),
            details={"rewards": rewards, "pairs": pairs},
        )

    def on_host(self, batch: Batch) -> Batch:
        """Of groups: which completions stand in which, and which are compared."""
        batch = super().on_host(batch)
        if self.reads != "groups" or "group" not in batch or batch["group"].device.type != "cpu":
            return batch
        group = batch["group"]
        return {**batch, "table": group_table(group), "compared": pairs_of_groups(group, batch["score"])}

    def end_epoch(self) -> None:
        """Say so if no pair of the epoch had the margin that use_margin asks for."""
        if self._margins is not None and not bool(self._margins):
            rank_zero_warn(
                "RewardModule: use_margin is set, but no pair of this epoch has a margin other than 0: the rows need scores, or a "
                "column 'margin'; it trained as without use_margin."
            )
        self._margins = None


def _figures(rewards: torch.Tensor, pairs: torch.Tensor) -> dict[str, Mean]:
    """What is watched of P pairs; nothing without a pair."""
    if not len(pairs):
        return {}
    chosen, rejected = rewards[pairs[:, 0]], rewards[pairs[:, 1]]
    lead = chosen - rejected
    found = {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": lead,
        "rewards/accuracies": (lead > 0).float() + 0.5 * (lead == 0),
    }
    number = torch.full((), len(pairs), dtype=torch.int64, device=pairs.device)
    return {name: Mean(values.sum(), number) for name, values in found.items()}
