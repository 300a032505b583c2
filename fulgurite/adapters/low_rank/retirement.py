"""Looking at gates: which ranks are zero, which are retired for good, and how many parameters are left.

A zero gate still has a gradient and can come back. A rank is retired after its gate has been seen at zero for ``patience``
optimizer steps; then it leaves the computation. Only a module whose ranks all die saves much time: GPUs compute ranks in
tiles of 16, so 5 live ranks of 8 cost what 8 do. Each expert of a mixture loses ranks of its own; the forward takes as many
as the expert with the most has left.

Deviation from the paper: it prunes once, after training (arXiv 2311.11696, section 3.2).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fulgurite.adapters.layers.low_rank_branch import LowRankBranch, RankRow

__all__ = ["rank_table", "retire"]


def retire(
    branches: Mapping[str, LowRankBranch], optimizer: torch.optim.Optimizer | None, elapsed: int = 1, patience: int = 1
) -> int:
    """Count how long each gate has been zero and retire the ranks that are past their patience.

    Args:
        branches: of one adapter, by layer name; those without a gate are left alone.
        optimizer: the one that trains them, whose state moves along; None outside of training.
        elapsed: optimizer steps since the last look.
        patience: optimizer steps at zero after which a rank is retired; with 1 every zero gate is, at once.

    Returns:
        The number of ranks retired.
    """
    retired = 0
    for name, zeros in _zero_gates(branches).items():
        branch = branches[name]
        for rank in branch.live_ranks():
            branch.zero_for[rank] = branch.zero_for[rank] + elapsed if rank in zeros else 0
        dead = [rank for rank in zeros if branch.zero_for[rank] >= patience]
        if dead:
            branch.retire(dead, optimizer)
            retired += len(dead)
    return retired


def rank_table(branches: Mapping[str, LowRankBranch]) -> list[RankRow]:
    """One row per adapted module; ranks without a gate (LoRA's) all count as non-zero.

    Args:
        branches: of one adapter, by layer name.
    """
    zeros = _zero_gates(branches)
    rows = []
    for name, branch in branches.items():
        live, most = sum(branch.lives), branch.max_rank * len(branch.lives)
        nonzero = live - len(zeros.get(name, ()))
        per_rank = branch.in_features + branch.out_features + int(branch.gate is not None)
        rows.append(RankRow(name, most, live, nonzero, most * per_rank, nonzero * per_rank))
    return rows


def _zero_gates(branches: Mapping[str, LowRankBranch]) -> dict[str, set[int]]:
    """Per module with a gate, the places (as in ``zero_for``) of its live ranks whose gate is zero; one synchronisation for all."""
    gated = {name: b.gate.detach().flatten() for name, b in branches.items() if b.gate is not None}
    if not gated:
        return {}
    flat = (torch.cat(list(gated.values())) == 0).tolist()
    result, start = {}, 0
    for name, gate in gated.items():
        result[name] = {rank for rank in branches[name].live_ranks() if flat[start + rank]}
        start += len(gate)
    return result
