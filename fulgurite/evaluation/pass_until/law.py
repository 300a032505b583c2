"""The law of a task's score over model sizes: log(−log PU(N)) = log c − α log N (arXiv 2310.03262, Eq. 4), and its checks.

The points F(N) = log(−log PU) are fitted by weighted least squares, weights 1 / s.e.(F)² by measurement. All errors come from a
parametric bootstrap of the counts: draws are simulated with the estimated rates under the very plan of sampling, and everything is
fitted again. Whether the law fits is asked in three ways: the scatter around the line against its errors, prediction of the
largest (and of the second largest) size from the smaller ones, and the curvature test in `forms`.

The law is motivation, not proof: it assumes that one right sequence dominates, that its loss has no floor, and one α for all
tokens. A mean of such curves is no such curve; `instances` fits each instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fulgurite.evaluation.pass_until.counts import Counts
from fulgurite.evaluation.pass_until.datasets import coordinate, other_draws, other_instances
from fulgurite.evaluation.pass_until.estimators import Floats

__all__ = [
    "LEAST_SIZES",
    "Law",
    "Points",
    "Prediction",
    "fit_law",
    "held_out",
    "points_of",
    "predicted",
    "solver",
    "two_sided",
]

LEAST_SIZES = 3  # of a line that can be tested


@dataclass(frozen=True)
class Points:
    """F of each model whose score is strictly between 0 and 1, and what other draws would give.

    Attributes:
        models: names.
        sizes: [points], rising.
        f: [points], log(−log PU).
        error: [points], standard errors by measurement.
        drawn: [repeats, points], F by other draws on the same instances.
        other: [repeats, points], by other instances of the same kind as well.
        notes: which models were left out.
    """

    models: tuple[str, ...]
    sizes: Floats
    f: Floats
    error: Floats
    drawn: Floats
    other: Floats
    notes: tuple[str, ...] = ()

    def some(self, chosen: Sequence[int]) -> Points:
        """The same with some of the points.

        Args:
            chosen: their places.
        """
        at = list(chosen)
        names = tuple(self.models[i] for i in at)
        return Points(names, self.sizes[at], self.f[at], self.error[at], self.drawn[:, at], self.other[:, at])


@dataclass(frozen=True)
class Law:
    """A fitted line.

    Attributes:
        log_c: its intercept at N = 1.
        alpha: minus its slope.
        log_c_interval: 95 % interval by the bootstrap.
        alpha_interval: as well.
        deviance: Σ ((F − line) / s.e.)², about χ² with (sizes − 2) degrees of freedom if the law holds.
        p_value: the share of bootstrap repeats with at least this deviance.
        models: that were fitted.
        drawn: [repeats, 2], intercept and slope of the bootstrap.
        other: [repeats, 2], with other instances as well.
    """

    log_c: float
    alpha: float
    log_c_interval: tuple[float, float]
    alpha_interval: tuple[float, float]
    deviance: float
    p_value: float
    models: tuple[str, ...]
    drawn: Floats
    other: Floats

    def f(self, size: float | Floats) -> Floats:
        """F of the line.

        Args:
            size: one or many.
        """
        return np.asarray(self.log_c - self.alpha * np.log(size))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {name: value for name, value in vars(self).items() if name not in ("drawn", "other")}


@dataclass(frozen=True)
class Prediction:
    """The score that a fit says of a size, beside the measured one where there is one.

    Attributes:
        model: its name, or the size as text.
        size: its size.
        fit: which fit said so.
        fitted: models that it was fitted on.
        pu: the predicted score.
        low: lower end of its 95 % interval (parametric bootstrap of counts).
        high: upper end.
        task_low: lower end where the instances are drawn anew, too; None where the fit does not give it.
        task_high: upper end.
        truth: the measured score; None where there is none.
        relative_error: (pu − truth) / truth; None without truth.
        agrees: whether the difference is within its 95 % interval, errors of both sides counted; None without truth.
        p_value: of that difference, two-sided; None without truth.
    """

    model: str
    size: float
    fit: str
    fitted: int
    pu: float
    low: float
    high: float
    task_low: float | None = None
    task_high: float | None = None
    truth: float | None = None
    relative_error: float | None = None
    agrees: bool | None = None
    p_value: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def points_of(counts: Counts, repeats: int = 2000, seed: int = 0) -> Points:
    """The points of a series.

    Args:
        counts: the table.
        repeats: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: no draw passed, or every draw did.
    """
    rates = counts.rates
    mean = rates.mean(1)
    error = np.sqrt(counts.variances.sum(1)) / rates.shape[1]
    if not counts.c.any():
        raise ValueError(
            f"scaling: none of {int(counts.n.sum())} draws passed; no law can be fitted; draw more, or take an "
            "easier task"
        )
    if (counts.c == counts.n).all():
        raise ValueError(
            f"scaling: all of {int(counts.n.sum())} draws passed; no law can be fitted; take a harder task"
        )
    notes = []
    for i, model in enumerate(counts.models):
        if not 0 < mean[i] < 1:
            share = "no" if mean[i] == 0 else "every"
            used = "" if counts.whole else ", the fit of instances uses it"
            notes.append(
                f"{model}: {share} draw of {int(counts.n[i].sum())} passed, so that log(−log PU) does not exist; the fit of the "
                f"task's score leaves it out{used}"
            )
        elif error[i] == 0:
            notes.append(
                f"{model}: each instance passes always or never, so that its error is unknown; the fit of the task's "
                "score leaves it out"
            )
    kept = np.flatnonzero((mean > 0) & (mean < 1) & (error > 0))
    rng = np.random.default_rng(seed)
    # A repeat without a pass has no F; it lies beyond every other one, and is put half a pass from zero.
    least = 0.5 / (counts.n[kept].max(1) * rates.shape[1])
    with np.errstate(invalid="ignore"):
        f, own, other = (
            coordinate(np.clip(values, least, 1 - least))
            for values in (
                mean[kept],
                other_draws(counts, rng, repeats)[:, kept],
                other_instances(counts, rng, repeats)[:, kept],
            )
        )
    scale = mean[kept] * np.abs(np.log(mean[kept]))
    return Points(
        tuple(counts.models[i] for i in kept), counts.sizes[kept], f, error[kept] / scale, own, other, tuple(notes)
    )


def solver(columns: Floats, error: Floats) -> Floats:
    """The matrix [parameters, points] that turns values into weighted least-squares parameters.

    Args:
        columns: [points, parameters], the design.
        error: [points], standard errors.
    """
    return np.asarray(np.linalg.pinv(columns / error[:, None]) / error)


def fit_law(points: Points) -> Law:
    """The line through the points.

    Args:
        points: at least three.

    Raises:
        ValueError: fewer.
    """
    if len(points.f) < LEAST_SIZES:
        raise ValueError(
            f"scaling: {len(points.f)} sizes with a score between 0 and 1 were given; the law needs {LEAST_SIZES} or more; "
            "count more models"
        )
    middle = np.log(points.sizes).mean()
    columns = np.stack([np.ones_like(points.f), np.log(points.sizes) - middle], 1)
    solve = solver(columns, points.error)
    level, slope = solve @ points.f

    def parameters(values: Floats) -> Floats:
        found = values @ solve.T
        return np.stack([found[:, 0] - found[:, 1] * middle, -found[:, 1]], 1)

    leftover = np.eye(len(points.f)) - columns @ solve
    deviance = float((((leftover @ points.f) / points.error) ** 2).sum())
    noise = points.drawn - points.drawn.mean(0)
    by_chance = (((noise @ leftover.T) / points.error) ** 2).sum(1)
    drawn, other = parameters(points.drawn), parameters(points.other)
    (c_low, a_low), (c_high, a_high) = np.percentile(drawn, (2.5, 97.5), axis=0)
    return Law(
        float(level - slope * middle),
        float(-slope),
        (float(c_low), float(c_high)),
        (float(a_low), float(a_high)),
        deviance,
        float((1 + (by_chance >= deviance).sum()) / (1 + len(by_chance))),
        points.models,
        drawn,
        other,
    )


def predicted(law: Law, model: str, size: float, points: Points | None = None) -> Prediction:
    """What the law says of a size.

    Args:
        law: the fit.
        model: name of the model.
        size: its size.
        points: those among which the model's measured score is looked for; None for no comparison.
    """

    def of(parameters: Floats) -> Floats:
        return np.exp(-np.exp(parameters[:, 0] - parameters[:, 1] * np.log(size)))

    pu = float(np.exp(-np.exp(law.f(size))))
    low, high = np.percentile(of(law.drawn), (2.5, 97.5))
    task_low, task_high = np.percentile(of(law.other), (2.5, 97.5))
    ends = (float(low), float(high), float(task_low), float(task_high))
    if points is None or model not in points.models:
        return Prediction(model, size, "task", len(law.models), pu, *ends)
    place = points.models.index(model)
    truth = float(np.exp(-np.exp(points.f[place])))
    difference = np.log(of(law.drawn)) + np.exp(points.drawn[:, place])
    least, most = np.percentile(difference, (2.5, 97.5))
    return Prediction(
        model,
        size,
        "task",
        len(law.models),
        pu,
        *ends,
        truth,
        (pu - truth) / truth,
        bool(least <= 0 <= most),
        two_sided(difference),
    )


def two_sided(values: Floats) -> float:
    """How often a bootstrap is on the far side of zero, both sides counted.

    Args:
        values: of the repeats.
    """
    repeats = len(values)
    return float(min(1.0, 2 * (1 + min((values <= 0).sum(), (values >= 0).sum())) / (1 + repeats)))


def held_out(points: Points, most: int = 2) -> list[Prediction]:
    """The largest size predicted from all smaller ones, then the second largest from those smaller than it.

    Args:
        points: of the series.
        most: how many sizes are held out, one after the other.
    """
    found = []
    for place in range(len(points.f) - 1, max(LEAST_SIZES, len(points.f) - most) - 1, -1):
        law = fit_law(points.some(range(place)))
        found.append(predicted(law, points.models[place], float(points.sizes[place]), points))
    return found
