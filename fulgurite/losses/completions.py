"""What preference losses read and return: per-completion quantities in, a sum over units and their number out.

Every loss of this package is a function of one number per completion, not of chosen and rejected halves of a batch: where
pairs share a completion (four answers to one prompt make six pairs) it is computed once and the pairs point at it.

Losses return the *sum* over units (pairs, examples, groups) beside their number, so that the caller can divide by the units
of a whole optimizer step, over all its batches and ranks: a mean of means would weigh short batches too much. Weights of
units multiply their losses and are not renormalised; their number stays what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

__all__ = ["Completions", "LossParts", "Mean"]


@dataclass(frozen=True, eq=False)
class Completions:
    """C completions as losses see them; arithmetic on them is done in float32 or wider.

    Args:
        log_probs: log-probability of each completion given its prompt, summed over its tokens, (C,); gradients flow here.
        lengths: tokens of each completion, (C,), what ``log_probs`` was summed over.
        reference: the same sum under the reference model, (C,), taken as a constant; None for losses without a reference.
    """

    log_probs: torch.Tensor
    lengths: torch.Tensor
    reference: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if self.log_probs.dim() != 1 or not self.log_probs.is_floating_point():
            raise ValueError(
                f"Completions: log_probs of shape {tuple(self.log_probs.shape)} and {self.log_probs.dtype}; "
                "one floating-point number per completion, (C,), is needed; sum over the completion's tokens first"
            )
        for name, value in (("lengths", self.lengths), ("reference", self.reference)):
            if value is not None and value.shape != self.log_probs.shape:
                raise ValueError(
                    f"Completions: {name} of shape {tuple(value.shape)} beside log_probs of shape "
                    f"{tuple(self.log_probs.shape)}; give one number per completion"
                )

    def __len__(self) -> int:
        """C."""
        return self.log_probs.shape[0]

    @property
    def sums(self) -> torch.Tensor:
        """log_probs in float32 or wider, (C,)."""
        return at_least_float32(self.log_probs)

    @property
    def token_means(self) -> torch.Tensor:
        """Mean log-probability per token, (C,)."""
        return self.sums / self.lengths.clamp(min=1)

    @property
    def log_ratios(self) -> torch.Tensor:
        """ρ = log π(y|x) − log π_ref(y|x), (C,)."""
        if self.reference is None:
            raise ValueError(
                "Completions: log_ratios was asked for, but reference is None; give "
                "Completions(reference=…), the log-probabilities of the reference model"
            )
        return self.sums - at_least_float32(self.reference).detach()


class LossParts(NamedTuple):
    """A loss before it is averaged.

    Attributes:
        loss_sum: sum of ``losses``, () float32 or wider.
        units: number of units U, () int64; weights do not change it.
        losses: loss of each unit times its weight, (U,).
    """

    loss_sum: torch.Tensor
    units: torch.Tensor
    losses: torch.Tensor


class Mean(NamedTuple):
    """A mean as a sum and its number of terms, which add over batches and ranks.

    Attributes:
        total: sum, () float.
        number: of terms, () int64.
    """

    total: torch.Tensor
    number: torch.Tensor

    def value(self) -> torch.Tensor:
        """The mean, () float; 0 without terms."""
        return self.total / self.number.clamp(min=1)


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """A copy in float32, or ``values`` itself where that is as wide: differences of large sums vanish in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def count_of(units: int, like: torch.Tensor) -> torch.Tensor:
    """() int64 on the device of ``like``, filled there: copying a number to a GPU would wait for it."""
    return torch.full((), units, dtype=torch.int64, device=like.device)


def weighed(losses: torch.Tensor, weight: torch.Tensor | None, owner: str) -> LossParts:
    """Multiply the losses (U,) by their weights (U,) or None and add them up."""
    if weight is not None:
        if weight.shape != losses.shape:
            raise ValueError(
                f"{owner}: weight of shape {tuple(weight.shape)}; one weight for each of the "
                f"{losses.shape[0]} pairs, examples or groups is needed"
            )
        losses = losses * weight.to(losses.dtype)
    return LossParts(losses.sum(), count_of(losses.shape[0], losses), losses)


def checked_pairs(pairs: torch.Tensor, owner: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The columns chosen (P,) and rejected (P,) of pairs (P, 2) int64."""
    if pairs.dim() != 2 or pairs.shape[1] != 2 or pairs.dtype != torch.int64:
        raise ValueError(
            f"{owner}: pairs of shape {tuple(pairs.shape)} and {pairs.dtype}; (P, 2) int64 is needed: "
            "the indices of the chosen and of the rejected completion"
        )
    return checked_index(pairs[:, 0], owner), checked_index(pairs[:, 1], owner)


def checked_index(index: torch.Tensor, owner: str) -> torch.Tensor:
    """The indices as they are. On a GPU they are not looked at, because that would wait for it."""
    if index.device.type == "cpu" and index.numel() and int(index.min()) < 0:
        raise ValueError(
            f"{owner}: index {int(index.min())}; indices of completions start at 0 "
            "(a negative index would take completions from the end)"
        )
    return index
