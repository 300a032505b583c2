"""A low-rank adapter as stock PEFT has it: plain LoRA with the gates folded into A, readable by PEFT, vLLM and others.

ΔW = s·B diag(g) A with s = α/r_max. Folding gives A' = diag(g) A of the surviving ranks; PEFT multiplies by
lora_alpha / r, so lora_alpha = α·r/r_max keeps s. By default every module is padded with zero ranks to one r, the smallest that
holds the largest module and keeps lora_alpha whole: readers that ignore ``rank_pattern`` are then right as well.

Experts are PEFT's ``target_parameters``. The keys of their factors do not hold the Parameter's name: how deep its wrapper lies
tells which one is meant (:func:`parameter_places`).

Where a model has a mixture, PEFT 0.21 takes every layer called gate_proj, up_proj or down_proj for an expert of transformers 4.
Dense layers and shared experts of these names would stay as they are, and the mixture would get factors that nobody trained. We
give such layers by their weights, among the target_parameters, which PEFT does not rename.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from fulgurite.adapters.layers.low_rank_branch import LowRankBranch

__all__ = ["RENAMED", "folded", "lora_layout", "parameter_places", "unstacked"]

RENAMED = {
    "gate",
    "gate_proj",
    "up_proj",
    "down_proj",
    "w1",
    "w2",
    "w3",
}  # what PEFT takes for a router and experts of old


def lora_layout(
    branches: Mapping[str, LowRankBranch],
    alpha: float,
    max_rank: int,
    rank_pattern: bool,
    parameters: Mapping[str, str],
) -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
    """The tensors of PEFT's LoRA per layer, and what its configuration says of them.

    Args:
        branches: of one adapter, by layer name, or by name of the Parameter in which experts are stacked.
        alpha: α of the adapter's configuration.
        max_rank: r_max, the rank that the adapter began with.
        rank_pattern: True writes each module's own rank and leaves modules without any rank out, instead of padding.
        parameters: by the names of those branches that PEFT is to put beside a Parameter, the name of that Parameter.

    Raises:
        ValueError: ``rank_pattern``, and no rank is left in any module.
    """
    factors = {name: folded(branch) for name, branch in branches.items()}
    kept = {name: a.shape[-2] for name, (a, _) in factors.items()}
    rank = _common_rank(max(kept.values()), max_rank, alpha)
    if rank_pattern:
        factors = {name: pair for name, pair in factors.items() if kept[name]}
        if not factors:
            raise ValueError(
                "export_peft: no rank is left in any module, and PEFT has no rank 0; export without rank_pattern."
            )
    else:
        factors = {name: _padded(pair, rank) for name, pair in factors.items()}
    pattern = {parameters.get(n, n): kept[n] for n in factors if kept[n] != rank} if rank_pattern else {}
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": _number(alpha * rank / max_rank),
        "bias": "none",
        "rank_pattern": {_anchored(name): r for name, r in pattern.items()},
        "alpha_pattern": {_anchored(name): _number(alpha * r / max_rank) for name, r in pattern.items()},
    }
    flat = {name: (_stacked(*pair) if pair[0].dim() == 3 else pair) for name, pair in factors.items()}
    return {name: {"lora_A.weight": a, "lora_B.weight": b} for name, (a, b) in flat.items()}, config


@torch.no_grad()
def folded(branch: LowRankBranch) -> tuple[torch.Tensor, torch.Tensor]:
    """A' (r', K) and B' (N, r') of the ranks whose gate is not zero, gate multiplied into A, on the CPU.

    Args:
        branch: of one layer. Of experts both have E in front, and r' is that of the expert with the most ranks; those of the others
            are filled up with zeros.
    """
    a, gate, b = branch.factors()
    if gate is not None:
        alive = gate != 0
        most = int(alive.sum(-1).max())
        # The ranks that are left come first, in their order.
        order = alive.logical_not().to(torch.int8).argsort(dim=-1, stable=True)[..., :most]
        a, b = gate[..., None] * a, b * alive[..., None, :]
        a = a.gather(-2, order[..., None].expand(*order.shape, a.shape[-1]))
        b = b.gather(-1, order[..., None, :].expand(*b.shape[:-1], most))
    return a.detach().cpu().clone(), b.detach().cpu().clone()


def parameter_places(stacks: Iterable[tuple[str, list[str]]]) -> dict[str, str]:
    """Where PEFT keeps the factors of Parameters, by their names: it wraps a module once for each, the last one outermost.

    Args:
        stacks: qualified names of modules, each with the names of its adapted Parameters in the module's order.
    """
    return {
        f"{layer}.{key}".lstrip("."): layer + ".base_layer" * (len(keys) - 1 - place)
        for layer, keys in stacks
        for place, key in enumerate(keys)
    }


def _stacked(a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A (E, r, K) and B (E, N, r) as PEFT stores them: (E·r, K), expert after expert, and (N, r·E), rank after rank."""
    return a.flatten(0, 1).contiguous(), b.permute(1, 2, 0).flatten(1).contiguous()


def unstacked(a: torch.Tensor, b: torch.Tensor, experts: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of the layout in which PEFT stores the factors of experts: (E·r, K), (N, r·E) -> (E, r, K), (E, N, r).

    Args:
        a: PEFT's lora_A.
        b: PEFT's lora_B.
        experts: E.
    """
    return a.unflatten(0, (experts, -1)), b.unflatten(1, (-1, experts)).permute(2, 0, 1)


def _padded(pair: tuple[torch.Tensor, torch.Tensor], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    a, b = pair
    missing = rank - a.shape[-2]
    return F.pad(a, (0, 0, 0, missing)), F.pad(b, (0, missing))


def _common_rank(needed: int, max_rank: int, alpha: float) -> int:
    """Smallest r from ``needed`` to ``max_rank`` for which α·r/r_max is whole; ``needed`` itself if there is none."""
    candidates = [r for r in range(max(1, needed), max_rank + 1) if (alpha * r / max_rank).is_integer()]
    return candidates[0] if candidates else max(1, needed)


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else value


def _anchored(name: str) -> str:
    """PEFT matches pattern keys as regexes against the end of names; anchoring makes one key mean one module."""
    return "^" + name.replace(".", r"\.")
