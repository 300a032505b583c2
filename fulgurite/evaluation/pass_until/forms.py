"""Which form the growth has: a line in log N, or curved, and towards which side (arXiv 2310.03262, Section 6).

With F = log(−log PU) over log N: a line is the scaling law; convex is slower than the law ("sub-scaling"), concave is faster
("super-scaling", accelerated emergence). Several steps that must all succeed give F = logsumexp_i(log c_i − α_i log N), which is
convex; the best of several circuits gives F = min_i(log c_i − α_i log N), which is concave. A vote that weights the circuits by
softmax(PU_i / τ) comes near to that for small τ; weights proportional to PU_i are an option. Neither is concave everywhere.

The label comes from the curvature test alone: a weighted quadratic, whose coefficient has a bootstrap interval. Where the points
scatter around the quadratic by more than their errors, the interval is widened by that scatter. AICc only ranks the forms. No label
is given below five sizes or where the interval contains zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from fulgurite.evaluation.pass_until.estimators import Floats, special_functions
from fulgurite.evaluation.pass_until.law import LEAST_SIZES, Points, solver, two_sided

__all__ = ["VOTES", "Curvature", "Form", "Vote", "compare_forms", "curvature", "multi_step", "two_circuits"]

Vote = Literal["softmax", "proportional", "majority"]
VOTES: tuple[Vote, ...] = get_args(Vote)
_SIZES_FOR_LABEL = 5
_REJECTED = 0.05


@dataclass(frozen=True)
class Curvature:
    """The curvature test.

    Attributes:
        value: coefficient of (log N)² in F.
        low: lower end of its 95 % interval.
        high: upper end.
        p_value: of the value, two-sided.
        widened: factor by which the interval was widened because the points scatter around the quadratic, too; 1 if they do not.
        label: "convex (sub-scaling)", "concave (super-scaling)", or "none".
        reason: why this label, or why none.
    """

    value: float
    low: float
    high: float
    p_value: float
    widened: float
    label: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Form:
    """One form, fitted.

    Attributes:
        name: linear, quadratic, two-circuit or multi-step.
        parameters: as fitted, over x = log N less its mean.
        deviance: Σ ((F − form) / s.e.)².
        p_value: how often a χ² of (sizes − parameters) degrees of freedom is at least the deviance; None without such a degree.
        aicc: deviance + 2k + 2k(k + 1) / (sizes − k − 1); None where there are too few sizes for the k parameters.
        curve: [points], F as fitted.
    """

    name: str
    parameters: tuple[float, ...]
    deviance: float
    p_value: float | None
    aicc: float | None
    curve: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def curvature(points: Points) -> Curvature | None:
    """The curvature test; None below four points: a quadratic meets three exactly.

    Args:
        points: of the series.
    """
    if len(points.f) <= LEAST_SIZES:
        return None
    x = _centred(points)
    columns = np.stack([np.ones_like(x), x, x * x], 1)
    solve = solver(columns, points.error)
    value = float(solve[2] @ points.f)
    drawn, widened = points.drawn @ solve[2], 1.0
    if len(x) > 3:
        leftover = np.eye(len(x)) - columns @ solve
        deviance = float((((leftover @ points.f) / points.error) ** 2).sum())
        noise = points.drawn - points.drawn.mean(0)
        by_chance = (((noise @ leftover.T) / points.error) ** 2).sum(1)
        if (1 + (by_chance >= deviance).sum()) / (
            1 + len(by_chance)
        ) < _REJECTED:  # then the scatter itself is the only measure of the error (Birge 1932)
            freedom = len(x) - 3
            widened = max(1.0, float(np.sqrt(deviance / freedom) * special_functions().stdtrit(freedom, 0.975) / 1.96))
    drawn = value + (drawn - value) * widened
    low, high = map(float, np.percentile(drawn, (2.5, 97.5)))
    side = "convex (sub-scaling)" if value > 0 else "concave (super-scaling)"
    if len(x) < _SIZES_FOR_LABEL:
        label, reason = "none", f"{len(x)} sizes are fewer than the {_SIZES_FOR_LABEL} that a label needs"
    elif low <= 0 <= high:
        label, reason = "none", f"the interval of the curvature, {low:.4f} to {high:.4f}, contains zero"
    else:
        label, reason = side, f"the interval of the curvature, {low:.4f} to {high:.4f}, lies on one side of zero"
    if widened > 1:
        reason += f", widened {widened:.1f} times because the points scatter around the quadratic as well"
    return Curvature(value, low, high, two_sided(drawn), widened, label, reason)


def compare_forms(points: Points, vote: Vote = "softmax", temperature: float = 1.0) -> list[Form]:
    """The four forms, the lowest AICc first; forms with too many parameters for the sizes come last, without AICc.

    Args:
        points: of the series.
        vote: how the two circuits are weighted.
        temperature: τ of the softmax.
    """
    x = _centred(points)
    found = []
    for name, degree in (("linear", 1), ("quadratic", 2)):
        columns = np.stack([x**power for power in range(degree + 1)], 1)
        parameters = solver(columns, points.error) @ points.f
        found.append(_form(name, parameters, columns @ parameters, points))
    found.append(_nonlinear("two-circuit", lambda p: two_circuits(x, p, vote, temperature), points))
    found.append(_nonlinear("multi-step", lambda p: multi_step(x, p), points))
    return sorted(found, key=lambda form: np.inf if form.aicc is None else form.aicc)


def two_circuits(x: Floats, parameters: Floats, vote: Vote = "softmax", temperature: float = 1.0) -> Floats:
    """F of two circuits, each of which obeys the law.

    Args:
        x: log sizes.
        parameters: log c and α of the first circuit, then of the second.
        vote: softmax(PU / τ), proportional to PU, or majority, which takes the better circuit.
        temperature: τ of the softmax.
    """
    lines = _lines(x, parameters)
    if vote == "majority":
        return np.asarray(lines.min(0))
    log_p = -np.exp(np.minimum(lines, 300.0))
    weights = log_p if vote == "proportional" else np.exp(log_p) / temperature
    special = special_functions()
    log_pu = special.logsumexp(log_p + weights, axis=0) - special.logsumexp(weights, axis=0)
    return np.asarray(np.log(np.maximum(-log_pu, 1e-300)))


def multi_step(x: Floats, parameters: Floats) -> Floats:
    """F of two steps that must both succeed.

    Args:
        x: log sizes.
        parameters: log c and α of the first step, then of the second.
    """
    return np.asarray(np.logaddexp(*_lines(x, parameters)))


def _lines(x: Floats, parameters: Floats) -> Floats:
    levels, slopes = np.asarray(parameters, float).reshape(2, 2).T
    return np.asarray(levels[:, None] - slopes[:, None] * x)


def _centred(points: Points) -> Floats:
    x = np.log(points.sizes)
    return np.asarray(x - x.mean())


def _form(name: str, parameters: Floats, curve: Floats, points: Points) -> Form:
    deviance = float((((points.f - curve) / points.error) ** 2).sum())
    k, sizes = len(parameters), len(points.f)
    aicc = deviance + 2 * k + 2 * k * (k + 1) / (sizes - k - 1) if sizes >= k + 2 else None
    p_value = float(special_functions().chdtrc(sizes - k, deviance)) if sizes > k else None
    return Form(name, tuple(map(float, parameters)), deviance, p_value, aicc, tuple(map(float, curve)))


def _nonlinear(name: str, curve: Callable[[Floats], Floats], points: Points) -> Form:
    """The best of several starts: two lines around the fitted one, turned against each other by more and more."""
    from scipy.optimize import least_squares

    x = _centred(points)
    level, slope = solver(np.stack([np.ones_like(x), -x], 1), points.error) @ points.f
    best = None
    for shift in (-0.7, 0.0, 0.7):
        for turn in (0.3, 1.0, 3.0):
            start = np.array([level + shift, slope + turn * abs(slope), level + shift, slope - turn * abs(slope)])
            tried = least_squares(
                lambda p: np.clip((curve(p) - points.f) / points.error, -1e6, 1e6), start, max_nfev=300
            )
            if best is None or tried.cost < best.cost:
                best = tried
    assert best is not None
    return _form(name, best.x, curve(best.x), points)
