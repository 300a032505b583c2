"""Losses of a pair: a chosen completion w against a rejected one l.

With ρ the log-ratio to the reference, r = β·ρ the implicit reward, Δ = r_w − r_l, and per pair

    dpo          −log σ(Δ)                                               Rafailov et al. 2023, arXiv 2305.18290
    cdpo         −(1−ε) log σ(Δ) − ε log σ(−Δ)                           Mitchell 2023
    robust       [−(1−ε) log σ(Δ) + ε log σ(−Δ)] / (1−2ε)                Chowdhury et al. 2024, arXiv 2403.00409
    hinge        max(0, 1 − Δ)                                           Zhao et al. 2023, arXiv 2305.10425
    ipo          ((ρ_w − ρ_l) − 1/(2β))²                                 Azar et al. 2023, arXiv 2310.12036
    nca          −log σ(r_w) − ½ log σ(−r_w) − ½ log σ(−r_l)             Chen et al. 2024, arXiv 2402.05369
    biased_nca   −log σ(r_w) − log σ(−r_l)
    simpo        −log σ(β·(avg_w − avg_l) − γ)                           Meng et al. 2024, arXiv 2405.14734
    cpo          −log σ(β·(logp_w − logp_l)) + cpo_alpha · NLL(w)        Xu et al. 2024, arXiv 2401.08417
    sft          NLL(w)

NCA has a finite optimum r_w = ln 2: unlike DPO it cannot lower the chosen reward for good, nor raise it without bound.
A margin m turns Δ into Δ − m (Amini et al. 2024, arXiv 2402.10571), as SimPO's γ does for every pair.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F

__all__ = [
    "biased_nca_pair",
    "hinge",
    "ipo",
    "logistic",
    "mean_nll",
    "nca_pair",
    "robust",
]


def logistic(delta: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """−(1−ε) log σ(Δ) − ε log σ(−Δ), (P,): cross-entropy of a preference whose label is wrong with probability ε.

    Args:
        delta: difference of the rewards, (P,).
        label_smoothing: ε.
    """
    if label_smoothing == 0:
        return -F.logsigmoid(delta)
    return -(1 - label_smoothing) * F.logsigmoid(delta) - label_smoothing * F.logsigmoid(-delta)


def robust(delta: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Unbiased estimate of the loss under true labels when each was flipped with probability ε < ½, (P,); may be negative.

    Args:
        delta: difference of the rewards, (P,).
        label_smoothing: ε.
    """
    flipped = -label_smoothing * F.logsigmoid(-delta)
    return (-(1 - label_smoothing) * F.logsigmoid(delta) - flipped) / (1 - 2 * label_smoothing)


def hinge(delta: torch.Tensor) -> torch.Tensor:
    """max(0, 1 − Δ), (P,)."""
    return torch.relu(1 - delta)


def ipo(difference: torch.Tensor, beta: float) -> torch.Tensor:
    """(difference − 1/(2β))², (P,).

    Args:
        difference: ρ_w − ρ_l, of sums (the paper's text) or of means per token (its experiments, and TRL), (P,).
        beta: the paper's τ.
    """
    return (difference - 1 / (2 * beta)).square()


def nca_pair(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """Noise-contrastive alignment of two completions, (P,); chosen, rejected: implicit rewards (P,)."""
    return -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)


def biased_nca_pair(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """−log σ(r_w) − log σ(−r_l), (P,): each completion on its own against a threshold of zero.

    Args:
        chosen: rewards of the chosen completions, (P,).
        rejected: rewards of the rejected completions, (P,).
    """
    return -F.logsigmoid(chosen) - F.logsigmoid(-rejected)


def mean_nll(log_probs: torch.Tensor, lengths: torch.Tensor, over: Literal["completion", "batch"]) -> torch.Tensor:
    """Negative log-likelihood per token, (P,).

    Args:
        log_probs: summed log-probabilities of the chosen completions, (P,).
        lengths: their tokens, (P,).
        over: "completion" divides by the completion's own length (the RPO paper); "batch" makes the mean over pairs the
            mean over all tokens of the batch (TRL), which then depends on which pairs came together.
    """
    if over == "completion":
        return -log_probs / lengths.clamp(min=1)
    return -log_probs * (lengths.numel() / lengths.sum().clamp(min=1))
