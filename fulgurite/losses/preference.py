"""Preference losses by name, alone or as a weighted sum, over completions that are computed once each.

Formulas and papers: :mod:`fulgurite.losses.pairwise`, :mod:`~fulgurite.losses.unpaired`, :mod:`~fulgurite.losses.groupwise`.
Names follow the papers. Where TRL's differ: sigmoid is "dpo" ("cdpo" with label smoothing), nca_pair is "nca", bco_pair
without its moving shift is "biased_nca", and RPO is ["dpo", "sft"] with weights [1, α]. TRL's "cpo" is ours; controllable
preference optimisation, a method of that name too, is "dpo" on conditioned prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

import torch

from fulgurite.losses import groupwise
from fulgurite.losses.completions import Completions, LossParts, checked_index, checked_pairs, weighed
from fulgurite.losses.terms import TERMS, Groups, Kind, Labels, Pairs

__all__ = ["PREFERENCE_LOSSES", "PreferenceLoss"]

PREFERENCE_LOSSES = tuple(TERMS)
_NEEDED: dict[Kind, tuple[str, ...]] = {
    "pairs": ("pairs",),
    "labels": ("desirable", "kl"),
    "groups": ("group", "scores"),
}
_OPTIONAL: dict[Kind, tuple[str, ...]] = {"pairs": ("margin",), "labels": ("examples",), "groups": ()}
_ELSEWHERE = {
    "sigmoid": "dpo",
    "nca_pair": "nca",
    "bco_pair": "biased_nca",
    "slic": "hinge",
    "kto_pair": "kto",
    "rpo": 'the sum ["dpo", "sft"]',
}


@dataclass(frozen=True)
class PreferenceLoss:
    """A preference loss, or a weighted sum of several that read the same kind of data.

    All terms of a sum share β. Weights of a sum are used as they are, so are those of rows.

    Args:
        names: one of :data:`PREFERENCE_LOSSES`, or several.
        weights: factor of each name (default: 1 each).
        beta: strength of the pull to the reference (0.1 is usual; SimPO wants 2 to 10); IPO's τ.
        label_smoothing: probability that a label is wrong, for cdpo and robust (0.1 is usual), simpo and cpo.
        gamma_ratio: SimPO's target margin as a share of beta, γ/β.
        cpo_alpha: weight of the chosen completion's NLL in cpo.
        desirable_weight: KTO's λ_D.
        undesirable_weight: KTO's λ_U.
        temperature: α of nca_kway and infonca; 1e-4, the authors', takes the best completion only.
        length_normalise: whether ipo compares means per token, as its authors and TRL do, or sums, as the paper is written.
        nll_over: what sft and cpo divide the NLL by: "completion" its own length, "batch" as TRL, so that pairs weigh by length.

    Attributes:
        kind: what a unit is: "pairs", "labels" (examples with a label) or "groups" (completions with scores).
        needs_reference: whether the completions must have a reference.
    """

    names: str | Sequence[str]
    weights: Sequence[float] | None = None
    beta: float = 0.1
    label_smoothing: float = 0.0
    gamma_ratio: float = 0.5
    cpo_alpha: float = 1.0
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    temperature: float = 1e-4
    length_normalise: bool = True
    nll_over: Literal["completion", "batch"] = "completion"
    kind: Kind = field(init=False, repr=False)
    needs_reference: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        object.__setattr__(self, "names", names)
        _check_names(names)
        kinds = {name: TERMS[name].kind for name in names}
        if len(set(kinds.values())) > 1:
            listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
            raise ValueError(
                f"PreferenceLoss: {listed} read different kinds of data and cannot be added; choose losses of one kind"
            )
        weights = (1.0,) * len(names) if self.weights is None else tuple(float(weight) for weight in self.weights)
        object.__setattr__(self, "weights", weights)
        if len(weights) != len(names) or not all(0 <= weight < float("inf") for weight in weights):
            raise ValueError(
                f"PreferenceLoss: weights {list(weights)} for {list(names)}; each loss needs one finite weight of 0 or more"
            )
        self._check_options(names)
        object.__setattr__(self, "kind", kinds[names[0]])
        object.__setattr__(self, "needs_reference", any(TERMS[name].needs_reference for name in names))

    def _check_options(self, names: tuple[str, ...]) -> None:
        for option in ("beta", "temperature"):
            if not 0 < getattr(self, option) < float("inf"):
                raise ValueError(f"PreferenceLoss: {option} is {getattr(self, option)}; it must be finite and above 0")
        for option in ("gamma_ratio", "cpo_alpha", "desirable_weight", "undesirable_weight"):
            if not 0 <= getattr(self, option) < float("inf"):
                raise ValueError(
                    f"PreferenceLoss: {option} is {getattr(self, option)}; it must be finite and 0 or more"
                )
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(
                f"PreferenceLoss: label_smoothing is {self.label_smoothing}; it must be at least 0 and below 0.5, "
                "because at 0.5 the labels say nothing"
            )
        if self.label_smoothing > 0 and not any(TERMS[name].smooths for name in names):
            raise ValueError(
                f"PreferenceLoss: label_smoothing is {self.label_smoothing}, which {', '.join(names)} does not use; "
                "choose cdpo or robust, or set it to 0"
            )
        if self.nll_over not in ("completion", "batch"):
            raise ValueError(f"PreferenceLoss: nll_over is {self.nll_over!r}; 'completion' or 'batch' is allowed")

    def __call__(
        self,
        completions: Completions,
        *,
        pairs: torch.Tensor | None = None,
        margin: torch.Tensor | None = None,
        desirable: torch.Tensor | None = None,
        kl: torch.Tensor | None = None,
        examples: torch.Tensor | None = None,
        group: torch.Tensor | None = None,
        scores: torch.Tensor | None = None,
        weight: torch.Tensor | None = None,
        table: torch.Tensor | None = None,
    ) -> LossParts:
        """The loss of U units: pairs, labelled examples or groups, by ``kind``. No unit gives a sum of 0 with a gradient.

        Args:
            completions: C completions.
            pairs: indices of the chosen and the rejected completion, (P, 2) int64.
            margin: how far, in units of reward, the chosen one should lead, (P,); for dpo, cdpo, robust, hinge, simpo, cpo.
            desirable: label of each example, (U,) bool.
            kl: z0 of KTO, (), reduced over ranks: the ``value()`` of a :func:`kl_baseline`.
            examples: indices of the completions that are examples, (U,) int64; None if all are, in their order.
            group: group of each completion, (C,) int64 from 0 without gaps; -1 for none.
            scores: score of each completion, (C,).
            weight: factor of each unit's loss, (U,); not renormalised.
            table: of :func:`fulgurite.losses.group_table` for ``group``, where it was made before; making it waits for a GPU.
        """
        given = {
            "pairs": pairs,
            "margin": margin,
            "desirable": desirable,
            "kl": kl,
            "examples": examples,
            "group": group,
            "scores": scores,
        }
        self._check_given(completions, {name for name, value in given.items() if value is not None})
        if pairs is not None:
            losses = self._pairs(completions, pairs, margin)
        elif desirable is not None and kl is not None:
            losses = self._labels(completions, desirable, kl, examples)
        else:
            assert group is not None and scores is not None
            losses = self._groups(completions, group, scores, table)
        return weighed(losses, weight, "PreferenceLoss")

    def rewards(self, completions: Completions) -> torch.Tensor:
        """Implicit reward of each completion, (C,): β·ρ, without a reference β·log π(y|x), per token for simpo."""
        if self.needs_reference:
            return self.beta * completions.log_ratios
        return self.beta * (completions.token_means if "simpo" in self.names else completions.sums)

    def _check_given(self, completions: Completions, given: set[str]) -> None:
        needed, allowed = set(_NEEDED[self.kind]), {*_NEEDED[self.kind], *_OPTIONAL[self.kind]}
        if not needed <= given <= allowed:
            raise ValueError(
                f"PreferenceLoss: {', '.join(self.names)} was given {', '.join(sorted(given)) or 'nothing'}; "
                f"it needs {' and '.join(_NEEDED[self.kind])}"
                + (f" and may have {', '.join(_OPTIONAL[self.kind])}" if _OPTIONAL[self.kind] else "")
            )
        if self.needs_reference and completions.reference is None:
            wanting = ", ".join(name for name in self.names if TERMS[name].needs_reference)
            raise ValueError(
                f"PreferenceLoss: {wanting} compares with a reference, but the completions have no reference log-probabilities; "
                "give Completions(reference=…), or choose simpo or cpo"
            )
        without = [name for name in self.names if not TERMS[name].takes_margin and name != "sft"]
        if "margin" in given and (without or set(self.names) == {"sft"}):
            raise ValueError(
                f"PreferenceLoss: margin was given, and {', '.join(without or self.names)} cannot use it; "
                f"losses that use a margin are {', '.join(name for name, traits in TERMS.items() if traits.takes_margin)}"
            )

    def _pairs(self, completions: Completions, pairs: torch.Tensor, margin: torch.Tensor | None) -> torch.Tensor:
        chosen, rejected = checked_pairs(pairs, "PreferenceLoss")
        if margin is not None and margin.shape != chosen.shape:
            raise ValueError(
                f"PreferenceLoss: margin of shape {tuple(margin.shape)}; "
                f"one margin for each of the {chosen.shape[0]} pairs is needed"
            )
        offset = 0.0 if margin is None else margin.to(completions.sums.dtype)
        return self._sum(Pairs(completions, chosen, rejected, offset, self))

    def _labels(
        self, completions: Completions, desirable: torch.Tensor, kl: torch.Tensor, examples: torch.Tensor | None
    ) -> torch.Tensor:
        ratios = completions.log_ratios
        if examples is not None:
            ratios = ratios[checked_index(examples, "PreferenceLoss")]
        if desirable.shape != ratios.shape or desirable.dtype != torch.bool or kl.dim():
            raise ValueError(
                f"PreferenceLoss: desirable of shape {tuple(desirable.shape)} and {desirable.dtype}, kl of shape "
                f"{tuple(kl.shape)}; desirable needs one bool for each of the {ratios.shape[0]} examples, and kl is one number"
            )
        return self._sum(Labels(ratios, desirable, kl, self))

    def _groups(
        self, completions: Completions, group: torch.Tensor, scores: torch.Tensor, table: torch.Tensor | None
    ) -> torch.Tensor:
        if not group.shape == scores.shape == completions.sums.shape:
            raise ValueError(
                f"PreferenceLoss: group of shape {tuple(group.shape)} and scores of shape {tuple(scores.shape)}; "
                f"each of the {len(completions)} completions needs a group number and a score"
            )
        table = groupwise.group_table(group) if table is None else table
        return self._sum(Groups(self.beta * completions.log_ratios, scores, table, self))

    def _sum(self, units: Pairs | Labels | Groups) -> torch.Tensor:
        parts = [
            TERMS[name].compute(units) * weight for name, weight in zip(self.names, self.weights or (), strict=True)
        ]
        return torch.stack(parts).sum(0)


def _check_names(names: tuple[str, ...]) -> None:
    if not names or len(set(names)) < len(names):
        raise ValueError(f"PreferenceLoss: names {list(names)}; give at least one loss, and each loss once")
    for name in names:
        if name not in TERMS:
            near = get_close_matches(str(name).lower(), TERMS, n=1)
            guess = _ELSEWHERE.get(str(name).lower(), repr(near[0]) if near else "")
            raise ValueError(
                f"PreferenceLoss: no loss is called {name!r}; "
                + (f"did you mean {guess}? " if guess else "")
                + f"There are {', '.join(TERMS)}"
            )
