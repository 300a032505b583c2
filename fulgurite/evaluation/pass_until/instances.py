"""The law of each instance: p_s(N) = exp(−exp(γ_s − e^κ_s · log(N/N0))), fitted to all counts at once with shrinkage.

The likelihood is that of the counts, Σ c log p + (n − c) log(1 − p), so that an instance without a pass tells how rare passes are
at most, and nothing is dropped or put to zero. (γ_s, κ_s) have a normal distribution over instances whose mean and covariance are
estimated along (empirical Bayes by expectation and maximisation, with a Laplace approximation for each instance). The score of
another size is the mean of p_s(N) over instances and over what the counts leave open about each. Its interval is a parametric
bootstrap: counts are simulated from the fit, and everything is fitted again.

Batches of tables are fitted together: arrays are [..., instances], with any leading dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from fulgurite.evaluation.pass_until.counts import Counts
from fulgurite.evaluation.pass_until.estimators import Floats, Ints, simulate, unbiased
from fulgurite.evaluation.pass_until.law import Prediction

__all__ = ["InstanceFit", "InstancePredictions", "fit_instances", "predict_instances"]

_ROUNDS, _STEPS = 300, 3
_ROUNDS_AGAIN = 60  # of a fit that starts from the fit of like counts
_SETTLED = 1e-4
_ROUNDING = 1e-9  # relative, of a log-likelihood
_NODES = 7
_FLOOR = 1e-3  # variances of the prior do not fall below, where instances are all alike
_STEEPEST = 3.0  # κ at most: e³ is an exponent of 20
_START_ALPHA = 0.2


@dataclass(frozen=True)
class InstanceFit:
    """The law of each instance.

    Attributes:
        middle: log N0, the mean of the log sizes.
        gamma: [..., instances], log(−log p) at N0.
        kappa: [..., instances], log of the exponent α_s.
        covariance: [..., instances, 2, 2], what the counts leave open.
        mean: [..., 2], of (γ, κ) over instances.
        spread: [..., 2, 2], covariance over instances.
        rounds: of the estimation.
    """

    middle: float
    gamma: Floats
    kappa: Floats
    covariance: Floats
    mean: Floats
    spread: Floats
    rounds: int

    def rates(self, size: float) -> Floats:
        """Each instance's pass rate at a size, the mean over what the counts leave open: [..., instances].

        Args:
            size: in the unit of the sizes that were fitted.
        """
        nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
        first, second = np.meshgrid(nodes, nodes, indexing="ij")
        both = np.outer(weights, weights) / weights.sum() ** 2
        root = np.linalg.cholesky(self.covariance)[..., None, None, :, :]
        gamma = self.gamma[..., None, None] + root[..., 0, 0] * first
        kappa = self.kappa[..., None, None] + root[..., 1, 0] * first + root[..., 1, 1] * second
        x = np.log(size) - self.middle
        return np.asarray((_rate(gamma - np.exp(np.minimum(kappa, _STEEPEST)) * x) * both).sum((-1, -2)))

    def curves(self, sizes: Floats) -> Floats:
        """Each instance's most probable pass rates: [sizes, ..., instances].

        Args:
            sizes: any number of them.
        """
        return np.stack([_rate(self.gamma - np.exp(self.kappa) * (np.log(size) - self.middle)) for size in sizes])


def fit_instances(sizes: Floats, n: Ints, c: Ints, start: InstanceFit | None = None) -> InstanceFit:
    """Fits the law of each instance.

    Args:
        sizes: [models].
        n: [..., models, instances], draws.
        c: passes among them.
        start: a fit of like counts to begin with.

    Raises:
        ValueError: fewer than two sizes.
    """
    if len(sizes) < 2:
        raise ValueError(
            f"scaling: {len(sizes)} size was given; the law of instances needs 2 or more; count more models"
        )
    middle = float(np.log(sizes).mean())
    x = (np.log(sizes) - middle)[:, None]
    shape = (*n.shape[:-2], n.shape[-1])
    if start is None:
        rate = (c.sum((-1, -2)) + 0.5) / (n.sum((-1, -2)) + 1.0)
        theta = np.empty((*shape, 2))
        theta[..., 0] = np.log(-np.log(rate))[..., None]
        theta[..., 1] = np.log(_START_ALPHA)
        mean, spread = theta.mean(-2), np.broadcast_to(np.diag([1.0, 1.0]), (*shape[:-1], 2, 2)).copy()
    else:
        theta = np.broadcast_to(np.stack([start.gamma, start.kappa], -1), (*shape, 2)).copy()
        mean = np.broadcast_to(start.mean, (*shape[:-1], 2)).copy()
        spread = np.broadcast_to(start.spread, (*shape[:-1], 2, 2)).copy()
    most = _ROUNDS if start is None else _ROUNDS_AGAIN
    rounds = 0
    while rounds < most:
        rounds += 1
        precision = np.linalg.inv(spread)
        for _ in range(_STEPS):
            theta = _step(theta, x, n, c, mean, precision)
        covariance = np.asarray(np.linalg.inv(_information(theta, x, n) + precision[..., None, :, :]), float)
        before = mean
        mean = theta.mean(-2)
        off = theta - mean[..., None, :]
        spread = (off[..., :, None] * off[..., None, :] + covariance).mean(-3) + _FLOOR * np.eye(2)
        if np.abs(mean - before).max() < _SETTLED:
            break
    return InstanceFit(middle, theta[..., 0], theta[..., 1], covariance, mean, spread, rounds)


@dataclass(frozen=True)
class InstancePredictions:
    """Fitted instances and what follows from them.

    Attributes:
        fit: the fit.
        predictions: scores of other sizes.
        deviance: Σ over fitted models of ((mean p̂ − mean fitted p) / its s.d. in the bootstrap)².
        p_value: the share of bootstrap repeats with at least this deviance.
    """

    fit: InstanceFit
    predictions: list[Prediction]
    deviance: float
    p_value: float


def predict_instances(
    counts: Counts,
    targets: Mapping[str, float],
    truths: Mapping[str, tuple[float, float]] | None = None,
    repeats: int = 100,
    seed: int = 0,
) -> InstancePredictions:
    """Fits the instances of a series and predicts the score at other sizes.

    Args:
        counts: the models to fit.
        targets: sizes by name.
        truths: measured scores with their standard errors, by name.
        repeats: of the parametric bootstrap.
        seed: of the bootstrap.
    """
    fit = fit_instances(counts.sizes, counts.n, counts.c)
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(fit.covariance)
    noise = rng.standard_normal((repeats, *fit.gamma.shape, 2))
    theta = np.stack([fit.gamma, fit.kappa], -1) + (root @ noise[..., None])[..., 0]
    alpha = np.exp(np.minimum(theta[..., 1], _STEEPEST))

    def true_rates(size: float) -> Floats:
        return _rate(theta[..., 0] - alpha * (np.log(size) - fit.middle))

    rates = np.stack([true_rates(size) for size in counts.sizes], 1)
    n, c = simulate(rates, counts.cap, counts.r, rng, rates.shape)
    again = fit_instances(counts.sizes, n, c, fit)
    misses = unbiased(n, c, counts.r).mean(-1) - np.stack([again.rates(s).mean(-1) for s in counts.sizes], 1)
    miss = counts.rates.mean(-1) - np.array([fit.rates(size).mean() for size in counts.sizes])
    scale = misses.std(0) + 1e-300
    deviance = float(((miss / scale) ** 2).sum())
    by_chance = (((misses - misses.mean(0)) / scale) ** 2).sum(1)
    found = []
    for name, size in targets.items():
        pu = float(fit.rates(size).mean())
        # Each repeat has its own truth: the error of its prediction, on the scale of log PU, is what the real one's may be.
        error = np.log(again.rates(size).mean(-1)) - np.log(true_rates(size).mean(-1))
        low, high = (float(min(1.0, pu * np.exp(-at))) for at in np.percentile(error, (97.5, 2.5)))
        prediction = Prediction(name, float(size), "instances", len(counts.models), pu, low, high)
        if truths and name in truths:
            truth, measured = truths[name]
            difference = pu * np.exp(-error) - truth - measured * rng.standard_normal(repeats)
            least, most = np.percentile(difference, (2.5, 97.5))
            relative = float((pu - truth) / truth) if truth > 0 else None
            prediction = replace(
                prediction, truth=float(truth), relative_error=relative, agrees=bool(least <= 0 <= most)
            )
        found.append(prediction)
    p_value = float((1 + (by_chance >= deviance).sum()) / (1 + repeats))
    return InstancePredictions(fit, found, deviance, p_value)


def _rate(f: Floats) -> Floats:
    return np.asarray(np.exp(-np.exp(np.clip(f, -40.0, 6.5))))


def _terms(theta: Floats, x: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """λ = −log p, log(1 − p), and the derivatives of F by γ (1) and κ: [..., models, instances]."""
    alpha = np.exp(np.minimum(theta[..., None, :, 1], _STEEPEST))
    by_kappa = -alpha * x
    minus_log = np.exp(np.clip(theta[..., None, :, 0] + by_kappa, -40.0, 6.5))
    return minus_log, np.log(-np.expm1(-minus_log)), np.ones_like(by_kappa), by_kappa


def _information(theta: Floats, x: Floats, n: Ints) -> Floats:
    """Fisher's information of (γ, κ): [..., instances, 2, 2]."""
    minus_log, _, first, second = _terms(theta, x)
    weight = n * minus_log**2 / np.expm1(minus_log)
    own = np.stack([first, second], -1)
    return np.asarray((weight[..., None, None] * own[..., :, None] * own[..., None, :]).sum(-4))


def _penalised(theta: Floats, x: Floats, n: Ints, c: Ints, mean: Floats, precision: Floats) -> Floats:
    minus_log, log_fail, _, _ = _terms(theta, x)
    off = theta - mean[..., None, :]
    return np.asarray(
        (-c * minus_log + (n - c) * log_fail).sum(-2) - 0.5 * np.einsum("...si,...ij,...sj->...s", off, precision, off)
    )


def _step(theta: Floats, x: Floats, n: Ints, c: Ints, mean: Floats, precision: Floats) -> Floats:
    """One step of Fisher scoring for every instance; it is halved up to six times where it would not climb."""
    minus_log, _, _, by_kappa = _terms(theta, x)
    slope = minus_log * (-c + (n - c) / np.expm1(minus_log))
    off = theta - mean[..., None, :]
    gradient = np.stack([slope.sum(-2), (slope * by_kappa).sum(-2)], -1) - np.einsum(
        "...ij,...sj->...si", precision, off
    )
    curved = _information(theta, x, n) + precision[..., None, :, :]
    move = np.clip(np.linalg.solve(curved, gradient[..., None])[..., 0], -2.0, 2.0)
    here = _penalised(theta, x, n, c, mean, precision)
    here -= _ROUNDING * (1 + np.abs(here))
    share = np.ones(theta.shape[:-1])
    for _ in range(6):
        tried = theta + share[..., None] * move
        tried[..., 1] = np.minimum(tried[..., 1], _STEEPEST)
        worse = _penalised(tried, x, n, c, mean, precision) < here
        if not worse.any():
            return np.asarray(tried)
        share = np.where(worse, share / 2, share)
    return np.asarray(np.where(worse[..., None], theta, tried))
