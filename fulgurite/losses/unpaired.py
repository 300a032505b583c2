"""KTO (Ethayarajh et al. 2024, arXiv 2402.01306): completions labelled desirable or not, one by one.

    desirable    λ_D · (1 − σ(β(ρ − z0)))          undesirable    λ_U · (1 − σ(β(z0 − ρ)))

z0 = max(0, mean of log π(y'|x) − log π_ref(y'|x)), over completions y' that belong to *other* prompts, is a constant: no
gradient goes through it. 1 − σ(u) is computed as σ(−u), which keeps its small values. z0 that stays at exactly 0 is the clamp.
"""

from __future__ import annotations

import torch

from fulgurite.losses.completions import Mean, at_least_float32

__all__ = ["kl_baseline", "kto", "kto_weight_warning"]

# The paper's interval for λ_D·n_D / (λ_U·n_U), with room for weights rounded to two decimals (and for Eurus's 1.33).
_LOWEST, _HIGHEST, _ROUNDING = 1.0, 4 / 3, 0.01


def kl_baseline(log_probs: torch.Tensor, reference: torch.Tensor, mask: torch.Tensor | None = None) -> Mean:
    """Sum and count behind z0, without gradient. Add both over the ranks, then take ``value()``: the clamp comes last.

    Args:
        log_probs: summed log-probabilities of mismatched completions (y' of another row after this row's prompt), (C,).
        reference: the same under the reference, (C,).
        mask: which of them count, (C,) bool: leave out empty completions; None for all.
    """
    ratios = at_least_float32(log_probs).detach() - at_least_float32(reference).detach()
    if mask is None:
        mask = torch.ones_like(ratios, dtype=torch.bool)
    return Mean(torch.where(mask, ratios, 0.0).sum(), mask.sum())


def kto(
    log_ratios: torch.Tensor,
    desirable: torch.Tensor,
    kl: torch.Tensor,
    beta: float,
    desirable_weight: float = 1.0,
    undesirable_weight: float = 1.0,
) -> torch.Tensor:
    """The loss of each example, (U,).

    Args:
        log_ratios: ρ, (U,).
        desirable: the label, (U,) bool.
        kl: z0, (); negative values count as 0.
        beta: β.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.
    """
    advantage = beta * (log_ratios - at_least_float32(kl).detach().clamp(min=0))
    return torch.where(
        desirable, desirable_weight * torch.sigmoid(-advantage), undesirable_weight * torch.sigmoid(advantage)
    )


def kto_weight_warning(
    n_desirable: int, n_undesirable: int, desirable_weight: float = 1.0, undesirable_weight: float = 1.0
) -> str | None:
    """A sentence for the user if the weights do not balance the labels, else None.

    The paper wants λ_D·n_D / (λ_U·n_U) between 1 and 4/3. Eurus used 1.33 and 1 on as many chosen as rejected rows.

    Args:
        n_desirable: rows labelled desirable.
        n_undesirable: the others.
        desirable_weight: λ_D.
        undesirable_weight: λ_U.
    """
    if min(n_desirable, n_undesirable) == 0:
        return (
            f"KTO: {n_desirable} desirable and {n_undesirable} undesirable rows; both labels are needed: with one alone the "
            "loss only pushes every completion the same way; check the label column"
        )
    desirable, undesirable = desirable_weight * n_desirable, undesirable_weight * n_undesirable
    if _LOWEST - _ROUNDING <= desirable / max(undesirable, 1e-300) <= _HIGHEST + _ROUNDING:
        return None
    ways = []
    if undesirable > 0:
        low, high = (bound * undesirable / n_desirable for bound in (_LOWEST, _HIGHEST))
        ways.append(f"desirable_weight to between {low:.3g} and {high:.3g}")
    if desirable > 0:
        low, high = (desirable / bound / n_undesirable for bound in (_HIGHEST, _LOWEST))
        ways.append(f"undesirable_weight to between {low:.3g} and {high:.3g}")
    return (
        f"KTO: {n_desirable} desirable rows of weight {desirable_weight:g} against {n_undesirable} undesirable rows of "
        f"weight {undesirable_weight:g}; the ratio of the weighted numbers should lie between 1 and 4/3; set "
        + (", or ".join(ways) if ways else "both weights above 0")
    )
