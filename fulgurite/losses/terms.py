"""The preference losses by name: what each computes, and its traits. A further loss registers itself here.

A loss is one function of :class:`Pairs`, :class:`Labels` or :class:`Groups`, which hold the units of a batch and the options of
the :class:`fulgurite.losses.PreferenceLoss` that asks. It returns one number per unit. Formulas and papers:
:mod:`fulgurite.losses.pairwise`, :mod:`~fulgurite.losses.unpaired`, :mod:`~fulgurite.losses.groupwise`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch

from fulgurite.losses import groupwise, pairwise, unpaired
from fulgurite.losses.completions import Completions

__all__ = ["TERMS", "Groups", "Kind", "Labels", "Options", "Pairs", "Term", "register_loss"]

Kind = Literal["pairs", "labels", "groups"]


class Options(Protocol):
    """The options of :class:`fulgurite.losses.PreferenceLoss` that losses read; see there."""

    @property
    def beta(self) -> float: ...
    @property
    def label_smoothing(self) -> float: ...
    @property
    def gamma_ratio(self) -> float: ...
    @property
    def cpo_alpha(self) -> float: ...
    @property
    def desirable_weight(self) -> float: ...
    @property
    def undesirable_weight(self) -> float: ...
    @property
    def temperature(self) -> float: ...
    @property
    def length_normalise(self) -> bool: ...
    @property
    def nll_over(self) -> Literal["completion", "batch"]: ...


@dataclass(frozen=True, eq=False)
class Pairs:
    """P pairs of completions.

    Attributes:
        completions: the C completions that the pairs point at.
        chosen: index of each pair's chosen completion, (P,) int64.
        rejected: index of each pair's rejected completion, (P,) int64.
        margin: how far the chosen completion should lead, in units of reward, (P,), or 0.0.
        options: of the loss.
    """

    completions: Completions
    chosen: torch.Tensor
    rejected: torch.Tensor
    margin: torch.Tensor | float
    options: Options

    # Plain indexing, never index_select: its backward repeats exactly on a GPU too.
    def lead(self, values: torch.Tensor) -> torch.Tensor:
        """By how much ``values``, (C,), of the chosen completion exceed those of the rejected one, (P,)."""
        return values[self.chosen] - values[self.rejected]

    def rewards(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Implicit rewards r = β·ρ of the chosen and the rejected completions, (P,) each."""
        ratios = self.options.beta * self.completions.log_ratios
        return ratios[self.chosen], ratios[self.rejected]

    def delta(self) -> torch.Tensor:
        """Δ = r_w − r_l less the margin, (P,)."""
        return self.options.beta * self.lead(self.completions.log_ratios) - self.margin

    def nll(self) -> torch.Tensor:
        """Negative log-likelihood of the chosen completions, (P,), divided as ``nll_over`` says."""
        sums, lengths = self.completions.sums[self.chosen], self.completions.lengths[self.chosen]
        return pairwise.mean_nll(sums, lengths, self.options.nll_over)


@dataclass(frozen=True, eq=False)
class Labels:
    """U examples with a label.

    Attributes:
        ratios: ρ of each example, (U,).
        desirable: the label, (U,) bool.
        kl: z0 of KTO, ().
        options: of the loss.
    """

    ratios: torch.Tensor
    desirable: torch.Tensor
    kl: torch.Tensor
    options: Options


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of completions with scores.

    Attributes:
        rewards: r = β·ρ of each completion, (C,).
        scores: score of each completion, (C,).
        table: the completions of each group, see :func:`fulgurite.losses.groupwise.group_table`.
        options: of the loss.
    """

    rewards: torch.Tensor
    scores: torch.Tensor
    table: Any
    options: Options


class Term(NamedTuple):
    """One loss.

    Attributes:
        compute: a function of :class:`Pairs`, :class:`Labels` or :class:`Groups`, by ``kind``, that returns one loss per unit.
        kind: what a unit is.
        needs_reference: whether completions must have a reference.
        takes_margin: whether pairs may have a margin.
        smooths: whether it reads ``label_smoothing``.
    """

    compute: Callable[[Any], torch.Tensor]
    kind: Kind = "pairs"
    needs_reference: bool = True
    takes_margin: bool = False
    smooths: bool = False


def _ipo(pairs: Pairs) -> torch.Tensor:
    ratios = pairs.completions.log_ratios
    if pairs.options.length_normalise:
        ratios = ratios / pairs.completions.lengths.clamp(min=1)
    return pairwise.ipo(pairs.lead(ratios), pairs.options.beta)


def _simpo(pairs: Pairs) -> torch.Tensor:
    lead = pairs.options.beta * (pairs.lead(pairs.completions.token_means) - pairs.options.gamma_ratio)
    return pairwise.logistic(lead - pairs.margin, pairs.options.label_smoothing)


def _cpo(pairs: Pairs) -> torch.Tensor:
    lead = pairs.options.beta * pairs.lead(pairs.completions.sums)
    contrast = pairwise.logistic(lead - pairs.margin, pairs.options.label_smoothing)
    return contrast + pairs.options.cpo_alpha * pairs.nll()


def _kto(labels: Labels) -> torch.Tensor:
    weights = labels.options.desirable_weight, labels.options.undesirable_weight
    return unpaired.kto(labels.ratios, labels.desirable, labels.kl, labels.options.beta, *weights)


def _nca_kway(groups: Groups) -> torch.Tensor:
    return groupwise.nca_kway(groups.rewards, groups.scores, groups.table, groups.options.temperature)


def _infonca(groups: Groups) -> torch.Tensor:
    return groupwise.infonca(groups.rewards, groups.scores, groups.table, groups.options.temperature)


TERMS: dict[str, Term] = {
    "dpo": Term(lambda p: pairwise.logistic(p.delta()), takes_margin=True),
    "cdpo": Term(lambda p: pairwise.logistic(p.delta(), p.options.label_smoothing), takes_margin=True, smooths=True),
    "robust": Term(lambda p: pairwise.robust(p.delta(), p.options.label_smoothing), takes_margin=True, smooths=True),
    "ipo": Term(_ipo),
    "hinge": Term(lambda p: pairwise.hinge(p.delta()), takes_margin=True),
    "nca": Term(lambda p: pairwise.nca_pair(*p.rewards())),
    "biased_nca": Term(lambda p: pairwise.biased_nca_pair(*p.rewards())),
    "simpo": Term(_simpo, needs_reference=False, takes_margin=True, smooths=True),
    "cpo": Term(_cpo, needs_reference=False, takes_margin=True, smooths=True),
    "sft": Term(Pairs.nll, needs_reference=False),
    "kto": Term(_kto, "labels"),
    "nca_kway": Term(_nca_kway, "groups"),
    "infonca": Term(_infonca, "groups"),
}


def register_loss(name: str, term: Term) -> None:
    """Let ``PreferenceLoss(name)``, and with it ``--model.loss name``, compute ``term``.

    Raises:
        ValueError: another loss has this name.
    """
    if TERMS.get(name, term) != term:
        raise ValueError(
            f"register_loss: {name!r} is the name of another loss; choose a name other than {', '.join(TERMS)}"
        )
    TERMS[name] = term
