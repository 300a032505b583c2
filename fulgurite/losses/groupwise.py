"""Losses of K completions of one prompt with a score each (Chen et al. 2024, arXiv 2402.05369).

    s = softmax(score / α) within the group          r = β·ρ
    nca_kway   −Σ s_i log σ(r_i) − (1/K) Σ log σ(−r_i)
    infonca    −Σ s_i log softmax_i(r)                        K = 2 with s one-hot is DPO

The authors' recipe has α = 1e-4, which puts all weight on the best score. They add 0.01 to the first completion's score
against ties; here tied best completions share the weight. Groups may differ in size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fulgurite.losses.completions import LossParts, at_least_float32, weighed

__all__ = ["group_table", "infonca", "kway_loss", "nca_kway", "pairs_of_groups"]


def group_table(group: torch.Tensor) -> torch.Tensor:
    """Which completions stand in which group, (G, K) int64, -1 where a group has fewer than K; in their order.

    A table, not sums scattered by group: those add in any order on a GPU and repeat no result exactly.

    Args:
        group: group of each completion, (C,) int64, 0 to G−1; -1 for completions that belong to none.
    """
    if group.dim() != 1 or group.dtype != torch.int64:
        raise ValueError(
            f"group_table: group of shape {tuple(group.shape)} and {group.dtype}; one id per completion, (C,) int64, is needed"
        )
    members = (group >= 0).nonzero().squeeze(1)
    members = members[group[members].argsort(stable=True)]
    ids = group[members]
    sizes = torch.bincount(ids)
    if sizes.numel() and int(sizes.min()) < 2:
        lonely = int(sizes.argmin())
        raise ValueError(
            f"group_table: group {lonely} has {int(sizes[lonely])} completions; at least two are needed to compare; "
            "leave such rows out and number the groups from 0 without gaps"
        )
    position = torch.arange(ids.numel(), device=ids.device) - (sizes.cumsum(0) - sizes)[ids]
    table = members.new_full((sizes.numel(), int(sizes.max()) if sizes.numel() else 0), -1)
    table[ids, position] = members
    return table


def pairs_of_groups(group: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """All pairs of different score within a group, the better completion first, (P, 2) int64.

    Args:
        group: group of each completion, (C,) int64; -1 for completions that belong to none.
        scores: score of each completion, (C,).
    """
    same = (group[:, None] == group[None, :]) & (group >= 0)[:, None]
    return (same & (scores[:, None] > scores[None, :])).nonzero()


def nca_kway(rewards: torch.Tensor, scores: torch.Tensor, table: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss of each group, (G,).

    Args:
        rewards: implicit rewards, (C,).
        scores: score of each completion, higher is better, (C,).
        table: from :func:`group_table`, (G, K).
        temperature: α.
    """
    present = table >= 0
    spread = torch.where(present, rewards[table], 0.0)
    noise = torch.where(present, -F.logsigmoid(-spread), 0.0).sum(1) / present.sum(1)
    return noise - (soft_labels(scores, table, temperature).to(spread.dtype) * F.logsigmoid(spread)).sum(1)


def infonca(rewards: torch.Tensor, scores: torch.Tensor, table: torch.Tensor, temperature: float) -> torch.Tensor:
    """The loss of each group, (G,); arguments as in :func:`nca_kway`."""
    present = table >= 0
    log_share = rewards[table].masked_fill(~present, float("-inf")).log_softmax(1)
    # 0 · −inf is NaN, in the gradient too: absent completions leave before the product.
    return -(soft_labels(scores, table, temperature).to(rewards.dtype) * torch.where(present, log_share, 0.0)).sum(1)


def kway_loss(
    name: str,
    rewards: torch.Tensor,
    group: torch.Tensor,
    scores: torch.Tensor,
    temperature: float = 1.0,
    table: torch.Tensor | None = None,
) -> LossParts:
    """The loss of G groups of completions with explicit rewards, in float32 or wider.

    Args:
        name: "infonca" or "nca_kway".
        rewards: of each completion, (C,); gradients flow here.
        group: group of each completion, (C,) int64, 0 to G−1; -1 for completions that belong to none.
        scores: score of each completion, higher is better, (C,).
        temperature: α.
        table: of :func:`group_table` for ``group``, where it was made before; making it waits for a GPU.
    """
    functions = {"infonca": infonca, "nca_kway": nca_kway}
    if name not in functions:
        raise ValueError(f"kway_loss: {name!r}; allowed are {', '.join(map(repr, functions))}")
    losses = functions[name](
        at_least_float32(rewards), scores, group_table(group) if table is None else table, temperature
    )
    return weighed(losses, None, "kway_loss")


def soft_labels(scores: torch.Tensor, table: torch.Tensor, temperature: float) -> torch.Tensor:
    """softmax(score / α) of each group, (G, K) float32 or wider."""
    spread = at_least_float32(scores.detach())[table].masked_fill(table < 0, float("-inf"))
    if not table.numel():
        return spread
    # The best is subtracted before the division: a score over 1e-4 would leave float32 no digits for the difference.
    return ((spread - spread.amax(1, keepdim=True)) / temperature).softmax(1)
