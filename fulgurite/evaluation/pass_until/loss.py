"""Hard instances by the loss of their reference answers, where passes are too rare to fit anything.

With ℓ_s(N) the summed negative log-likelihood of the reference answer: ℓ_s = b_s N^(−β_s) for each instance (least squares of
log ℓ), and over the well-measured pairs of instance and size

    log(−log p) = u + v log ℓ + e_s,    e_s normal over instances

The regression is pooled. The paper (arXiv 2310.03262, Section 5.4) maps loss to PU too, in a form that it does not make plain, and
says that one sample's loss has no one-to-one relation to its PU. This is our own form; its scatter over instances (`between`) goes
into the predicted mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fulgurite.evaluation.pass_until.counts import Counts
from fulgurite.evaluation.pass_until.estimators import Floats
from fulgurite.evaluation.pass_until.instances import InstanceFit
from fulgurite.evaluation.pass_until.law import Prediction

__all__ = ["LossFit", "predict_by_loss"]

_WELL = 5  # passes of a well-measured pair
_LEAST = 10  # such pairs, of three instances or more
_NODES = 21


@dataclass(frozen=True)
class LossFit:
    """The regression of F on the log of the reference's loss.

    Attributes:
        intercept: u.
        slope: v.
        between: s.d. of e_s over instances.
        within: s.d. of F around the regression of an instance.
        pairs: well-measured pairs of instance and size.
        well: instances with such a pair.
        hard: instances with a pass at one size at most, which the regression stands for.
    """

    intercept: float
    slope: float
    between: float
    within: float
    pairs: int
    well: int
    hard: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def predict_by_loss(
    counts: Counts,
    fit: InstanceFit,
    targets: Mapping[str, float],
    truths: Mapping[str, tuple[float, float]],
) -> tuple[LossFit | None, list[Prediction], list[str]]:
    """The fit, predictions in which hard instances go by their loss and the rest by their own law, and what was left out.

    Args:
        counts: the models to fit.
        fit: the law of each instance.
        targets: sizes by name.
        truths: measured scores with their standard errors, by name.
    """
    known = np.isfinite(counts.loss) & (counts.loss > 0)
    if not known.any():
        return None, [], []
    complete = known.all(0)
    hard = ((counts.c > 0).sum(0) <= 1) & complete
    well = (counts.c >= _WELL) & (counts.c < counts.n) & known
    which = np.nonzero(well)[1]
    if len(which) < _LEAST or len(set(which)) < 3:
        return (
            None,
            [],
            [f"losses are not used: {len(which)} pairs of instance and size have {_WELL} passes, needed are {_LEAST}"],
        )
    if not hard.any():
        return None, [], ["losses are not used: every instance has passes at two sizes or more"]
    y, x = np.log(-np.log(counts.rates[well])), np.log(counts.loss[well])
    slope, intercept = np.polyfit(x, y, 1)
    residual = y - intercept - slope * x
    between, within = _components(residual, which)
    log_sizes = np.log(counts.sizes)
    lines = np.polyfit(log_sizes, np.log(np.where(complete, counts.loss, 1.0)), 1)  # [2, instances]
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    found = []
    for name, size in targets.items():
        level = intercept + slope * (lines[0] * np.log(size) + lines[1])
        by_loss = (np.exp(-np.exp(np.clip(level[:, None] + between * nodes, -40, 6.5))) * weights).sum(
            1
        ) / weights.sum()
        rates = np.where(hard, by_loss, fit.rates(size))
        pu = float(rates.mean())
        truth = truths.get(name)
        relative = float((pu - truth[0]) / truth[0]) if truth and truth[0] > 0 else None
        nan = float("nan")  # no interval: what the form is worth is known by comparison alone
        found.append(
            Prediction(
                name,
                float(size),
                "instances, hard ones by loss",
                len(counts.models),
                pu,
                nan,
                nan,
                truth=None if truth is None else float(truth[0]),
                relative_error=relative,
            )
        )
    result = LossFit(float(intercept), float(slope), between, within, len(which), len(set(which)), int(hard.sum()))
    return result, found, []


def _components(residual: Floats, which: np.ndarray) -> tuple[float, float]:
    """Standard deviations between instances and within them, by moments."""
    groups = [residual[which == instance] for instance in np.unique(which)]
    inside = sum(float(((group - group.mean()) ** 2).sum()) for group in groups)
    freedom = sum(len(group) - 1 for group in groups)
    within = inside / freedom if freedom else 0.0
    means = np.array([group.mean() for group in groups])
    between = max(0.0, float(means.var(ddof=1)) - within * float(np.mean([1 / len(group) for group in groups])))
    return float(np.sqrt(between)), float(np.sqrt(within))
