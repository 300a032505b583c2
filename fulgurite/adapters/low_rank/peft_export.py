"""A low-rank adapter as stock PEFT has it: plain LoRA with the gates folded into A, readable by PEFT, vLLM and others.

ΔW = s·B diag(g) A with s = α/r_max. Folding gives A' = diag(g) A of the surviving ranks; PEFT multiplies by
lora_alpha / r, so lora_alpha = α·r/r_max keeps s. By default every module is padded with zero ranks to one r, the smallest that
holds the largest module and keeps lora_alpha whole: readers that ignore ``rank_pattern`` are then right as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fulgurite.adapters.layers.low_rank_branch import LowRankBranch

__all__ = ["folded", "lora_layout"]


def lora_layout(
    branches: Mapping[str, LowRankBranch], alpha: float, max_rank: int, rank_pattern: bool
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """The tensors of PEFT's LoRA per layer, and what its configuration says of them.

    Args:
        branches: of one adapter, by layer name.
        alpha: α of the adapter's configuration.
        max_rank: r_max, the rank that the adapter began with.
        rank_pattern: True writes each module's own rank and leaves modules without any rank out, instead of padding.

    Raises:
        ValueError: ``rank_pattern``, and no rank is left in any module.
    """
    factors = {name: folded(branch) for name, branch in branches.items()}
    kept = {name: a.shape[0] for name, (a, _) in factors.items()}
    rank = _common_rank(max(kept.values()), max_rank, alpha)
    if rank_pattern:
        factors = {name: pair for name, pair in factors.items() if kept[name]}
        if not factors:
            raise ValueError(
                "export_peft: no rank is left in any module, and PEFT has no rank 0; export without rank_pattern."
            )
    else:
        factors = {name: _padded(pair, rank) for name, pair in factors.items()}
    pattern = {name: kept[name] for name in factors if kept[name] != rank} if rank_pattern else {}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _number(alpha * rank / max_rank),
        "bias": "none",
        "rank_pattern": {_anchored(name): r for name, r in pattern.items()},
        "alpha_pattern": {_anchored(name): _number(alpha * r / max_rank) for name, r in pattern.items()},
    }
    return {name: {"lora_A.weight": a, "lora_B.weight": b} for name, (a, b) in factors.items()}, config


@torch.no_grad()
def folded(branch: LowRankBranch) -> tuple[torch.Tensor, torch.Tensor]:
    """A' (r', K) and B' (N, r') of the ranks whose gate is not zero, gate multiplied into A, on the CPU.

    Args:
        branch: of one layer.
    """
    a, gate, b = branch.factors()
    if gate is not None:
        alive = gate != 0
        a, b = gate[alive, None] * a[alive], b[:, alive]
    return a.detach().cpu().clone(), b.detach().cpu().clone()


def _padded(pair: tuple[torch.Tensor, torch.Tensor], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = pair
    missing = rank - a.shape[0]
    return torch.cat([a, a.new_zeros(missing, a.shape[1])]), torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1)


def _common_rank(needed: int, max_rank: int, alpha: float) -> int:
    """Smallest r from ``needed`` to ``max_rank`` for which α·r/r_max is whole; ``needed`` itself if there is none."""
    candidates = [r for r in range(max(1, needed), max_rank + 1) if (alpha * r / max_rank).is_integer()]
    return candidates[0] if candidates else max(1, needed)


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _anchored(name: str) -> str:
    """PEFT matches pattern keys as regexes against the end of names; anchoring makes one key mean one module."""
    return "^" + name.replace(".", r"\.")
