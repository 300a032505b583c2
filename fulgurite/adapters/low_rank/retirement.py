"""Looking at gates: which ranks are zero, which are retired for good, and exact parameter counts.

A zero gate still has a gradient and can come back. A rank is retired after its gate has been seen at zero for ``patience``
optimizer steps; then it leaves the computation. Only a module whose ranks all die saves much time: GPUs compute ranks in
tiles of 16, so 5 live ranks of 8 cost what 8 do.

Deviation from the paper: it prunes once, after training (arXiv 2311.11696, section 3.2).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from fulgurite.adapters.config import SoRA

if TYPE_CHECKING:
    from fulgurite.adapters.layers.low_rank_branch import RankRow
    from fulgurite.adapters.low_rank.adapter import LowRankAdapter

__all__ = ["look", "rank_table", "retire_zeros"]


def look(adapter: LowRankAdapter, optimizer: torch.optim.Optimizer | None) -> int:
    """Count how long each gate has been zero, retire those past their patience; returns the number retired."""
    assert isinstance(adapter.config, SoRA)
    return _retire(adapter, optimizer, adapter.config.look_every, adapter.config.patience)


def retire_zeros(adapter: LowRankAdapter, optimizer: torch.optim.Optimizer | None) -> int:
    """Retire every rank whose gate is zero now; returns the number retired."""
    return _retire(adapter, optimizer, 1, 1) if adapter.gates else 0


def rank_table(adapter: LowRankAdapter) -> list[RankRow]:
    """One row per adapted module; LoRA's ranks all count as non-zero."""
    from fulgurite.adapters.layers.low_rank_branch import RankRow

    zeros = _zero_gates(adapter)
    rows = []
    for name, branch in adapter.branches.items():
        nonzero = branch.live - sum(zeros.get(name, ()))
        gate = int(branch.gate is not None)
        per_rank = branch.in_features + branch.out_features + gate
        rows.append(
            RankRow(name, branch.max_rank, branch.live, nonzero, branch.max_rank * per_rank, nonzero * per_rank)
        )
    return rows


def _zero_gates(adapter: LowRankAdapter) -> dict[str, list[bool]]:
    """Per module with a gate, whether each live rank's gate is zero; one synchronisation for all."""
    gated = {name: b.gate.detach()[: b.live] for name, b in adapter.branches.items() if b.gate is not None}
    if not gated:
        return {}
    flat = (torch.cat(list(gated.values())) == 0).tolist()
    result, start = {}, 0
    for name, gate in gated.items():
        result[name] = flat[start : start + len(gate)]
        start += len(gate)
    return result


def _retire(adapter: LowRankAdapter, optimizer: torch.optim.Optimizer | None, elapsed: int, patience: int) -> int:
    retired = 0
    branches = adapter.branches
    for name, zeros in _zero_gates(adapter).items():
        branch = branches[name]
        for rank, zero in enumerate(zeros):
            branch.zero_for[rank] = branch.zero_for[rank] + elapsed if zero else 0
        dead = [rank for rank, zero in enumerate(zeros) if zero and branch.zero_for[rank] >= patience]
        if dead:
            branch.retire(dead, optimizer)
            retired += len(dead)
    return retired
