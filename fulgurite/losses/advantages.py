r"""Advantages: how much better an answer, or a token of it, was than expected.

    gae         δ_t = r_t + γ V_{t+1} − V_t,  A_t = Σ_l (γλ)^l δ_{t+l}          per token; Schulman et al. 2016, arXiv 1506.02438
    rloo        R_i − mean of the group's other rewards                        Ahmadian et al. 2024, arXiv 2402.14740
    group       (R_i − mean of the group) / (s.d. + 1e-4)                      GRPO, Shao et al. 2024, arXiv 2402.03300
    reinforce   R_i − a moving mean of earlier rewards                         Williams 1992

A group is what was drawn for one prompt. The s.d. of ``group`` is the group's (GRPO), the batch's, or left out (Dr. GRPO, arXiv
2503.20783). An answer that is alone in its group has nothing to be compared with: ``rloo`` and ``group`` give it 0.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch

__all__ = ["Scale", "TokenAdvantages", "gae", "group_relative", "leave_one_out", "moving_baseline", "whitened"]

Scale = Literal["group", "batch", "none"]

_EPSILON = 1e-4  # beside the s.d., as in GRPO's published code


class TokenAdvantages(NamedTuple):
    """What :func:`gae` finds.

    Attributes:
        advantages: of each token, (K,).
        returns: what the value of the state before each token should have been, (K,).
    """

    advantages: torch.Tensor
    returns: torch.Tensor


def gae(
    rewards: torch.Tensor, values: torch.Tensor, lengths: torch.Tensor, gamma: float = 1.0, lam: float = 0.95
) -> TokenAdvantages:
    """Generalised advantage estimation; behind an answer's last token the value is 0.

    Args:
        rewards: of each token, the answers one behind the other, (K,).
        values: of the state before each token, (K,).
        lengths: tokens of each answer, (C,) int64, which add up to K.
        gamma: discount of a step.
        lam: λ; 1 takes whole returns, 0 the next value alone.

    Raises:
        ValueError: lengths that do not add up.
    """
    if int(lengths.sum()) != len(rewards) or rewards.shape != values.shape:
        raise ValueError(
            f"gae: {len(rewards)} rewards and {len(values)} values for answers of {int(lengths.sum())} tokens; give one of each "
            "for every token"
        )
    if not len(rewards):
        return TokenAdvantages(rewards.clone(), rewards.clone())
    width = int(lengths.max())
    real = torch.arange(width, device=rewards.device) < lengths[:, None]
    padded = [torch.zeros(real.shape, dtype=x.dtype, device=x.device) for x in (rewards, values)]
    padded[0][real], padded[1][real] = rewards, values
    reward, value = padded
    found = torch.zeros_like(reward)
    ahead, next_value = torch.zeros_like(reward[:, 0]), torch.zeros_like(reward[:, 0])
    for t in reversed(range(width)):
        # In the padding reward and value are 0, so what comes from there is 0 as well.
        ahead = reward[:, t] + gamma * next_value - value[:, t] + gamma * lam * ahead
        found[:, t], next_value = ahead, value[:, t]
    advantages = found[real]
    return TokenAdvantages(advantages, advantages + values)


def whitened(advantages: torch.Tensor) -> torch.Tensor:
    """Mean 0 and variance 1 (of the population, plus 1e-8), (K,)."""
    centred = advantages - advantages.mean()
    return centred / (centred.square().mean() + 1e-8).sqrt()


def leave_one_out(rewards: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """Each reward less the mean of its group's other rewards, (C,).

    Args:
        rewards: of the answers, (C,).
        group: of each answer, (C,) int64, counted from 0.
    """
    totals, counts = _by_group(rewards, group)
    others = (counts - 1)[group]
    baseline = (totals[group] - rewards) / others.clamp(min=1)
    return torch.where(others > 0, rewards - baseline, torch.zeros_like(rewards))


def group_relative(
    rewards: torch.Tensor, group: torch.Tensor, scale: Scale = "group", unbiased: bool = True
) -> torch.Tensor:
    """Each reward less the mean of its group, divided by a standard deviation plus 1e-4, (C,).

    Args:
        rewards: of the answers, (C,).
        group: of each answer, (C,) int64, counted from 0.
        scale: whose standard deviation: the group's, the batch's, or "none".
        unbiased: divide squares by n − 1, as the published code does; False divides by n.

    Raises:
        ValueError: an unknown scale.
    """
    if scale not in ("group", "batch", "none"):
        raise ValueError(f"group_relative: scale={scale!r}; allowed are 'group', 'batch' and 'none'")
    totals, counts = _by_group(rewards, group)
    centred = rewards - (totals / counts.clamp(min=1))[group]
    if scale == "none":
        return centred
    less = 1 if unbiased else 0
    if scale == "batch":
        squares = (rewards - rewards.mean()).square().sum() / max(1, len(rewards) - less)
        return centred / (squares.sqrt() + _EPSILON)
    squares, _ = _by_group(centred.square(), group)
    deviation = (squares / (counts - less).clamp(min=1)).sqrt()
    return centred / (deviation[group] + _EPSILON)


def moving_baseline(mean: float | None, rewards: torch.Tensor, decay: float = 0.9) -> tuple[torch.Tensor, float]:
    """Advantages against a moving mean, (C,), and that mean with these rewards in it.

    The mean of earlier steps alone is subtracted: with these rewards in it the gradient would be biased. The first step has no
    earlier one and takes its own mean.

    Args:
        mean: of the steps before; None at the first.
        rewards: of the answers, (C,), at least one.
        decay: share of the old mean in the new one.
    """
    own = float(rewards.mean())
    before = own if mean is None else mean
    return rewards - before, decay * before + (1 - decay) * own


def _by_group(values: torch.Tensor, group: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and number of each group's values, (G,) each."""
    groups = int(group.max()) + 1 if len(group) else 0
    totals = values.new_zeros(groups).index_add(0, group, values)
    return totals, values.new_zeros(groups).index_add(0, group, torch.ones_like(values))
