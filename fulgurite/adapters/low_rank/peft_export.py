"""An adapter as stock PEFT has it: plain LoRA with the gates folded into A, readable by PEFT, vLLM and others.

ΔW = s·B diag(g) A with s = α/r_max. Folding gives A' = diag(g) A of the surviving ranks; PEFT multiplies by
lora_alpha / r, so lora_alpha = α·r/r_max keeps s. By default every module is padded with zero ranks to one r, the smallest that
holds the largest module and keeps lora_alpha whole: readers that ignore ``rank_pattern`` are then right as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fulgurite.adapters.layers.layer import weight_is_transposed
from fulgurite.adapters.peft_folder import target_names, write_folder

if TYPE_CHECKING:
    from fulgurite.adapters.layers.low_rank_branch import LowRankBranch
    from fulgurite.adapters.low_rank.adapter import LowRankAdapter

__all__ = ["export"]


def export(
    adapter: LowRankAdapter, folder: Path, rank_pattern: bool, base_model: str | None, task_type: str | None
) -> None:
    """See :meth:`fulgurite.adapters.Adapter.export_peft`.

    Raises:
        ValueError: no rank is left in any module and no module is trained beside them.
    """
    factors = {name: _folded(branch) for name, branch in adapter.branches.items()}
    kept = {name: a.shape[0] for name, (a, _) in factors.items()}
    alpha, max_rank = adapter.config.alpha, adapter.config.rank
    rank = _common_rank(max(kept.values()), max_rank, alpha)
    if rank_pattern:
        factors = {name: pair for name, pair in factors.items() if kept[name]}
        if not factors:
            raise ValueError(
                "export_peft: no rank is left in any module, and PEFT has no rank 0; export without rank_pattern."
            )
    else:
        factors = {name: _padded(pair, rank) for name, pair in factors.items()}
    tensors = {}
    for name, (a, b) in factors.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = a
        tensors[f"base_model.model.{name}.lora_B.weight"] = b
    pattern = {name: kept[name] for name in factors if kept[name] != rank} if rank_pattern else {}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base_model,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": _number(alpha * rank / max_rank),
        "lora_dropout": adapter.config.dropout,
        "bias": "none",
        "fan_in_fan_out": all(weight_is_transposed(layer) for layer in adapter.layers.values()),
        "target_modules": target_names(adapter, list(factors)),
        "modules_to_save": sorted(adapter.head_names) or None,
        "rank_pattern": {_anchored(name): r for name, r in pattern.items()},
        "alpha_pattern": {_anchored(name): _number(alpha * r / max_rank) for name, r in pattern.items()},
    }
    write_folder(adapter, folder, tensors, config)


@torch.no_grad()
def _folded(branch: LowRankBranch) -> tuple[torch.Tensor, torch.Tensor]:
    """A' (r', K) and B' (N, r') of the ranks whose gate is not zero, gate multiplied into A."""
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
    """Smallest r from ``needed`` to ``max_rank`` for which α·r/r_max is whole; r_max's own fraction is kept if none is."""
    candidates = [r for r in range(max(1, needed), max_rank + 1) if (alpha * r / max_rank).is_integer()]
    return candidates[0] if candidates else max(1, needed)


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _anchored(name: str) -> str:
    """PEFT matches pattern keys as regexes against the end of names; anchoring makes one key mean one module."""
    return "^" + name.replace(".", r"\.")
