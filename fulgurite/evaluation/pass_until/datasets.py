"""The score of a whole task from its instances: PU(N), its errors, and F(N) = log(−log PU(N)).

    mean of instances   PU = (1/S) Σ p̂_s, the expected pass@1 of one draw; F is taken of this mean
    mean of logs        −(1/S) Σ log p_s over instances that every model passes (GPT-4's form); at least −log PU by Jensen

Two errors are kept apart: measurement (other draws on the same instances), (1/S²) Σ v̂_s, and task sampling (other instances of
the same kind), the spread of p̂ over instances with the measurement's part taken off. A comparison of models on the same instances
needs the first alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fulgurite.evaluation.pass_until.counts import Counts
from fulgurite.evaluation.pass_until.estimators import (
    Floats,
    interval,
    log_rate,
    published,
    simulate,
    special_functions,
    unbiased,
)

__all__ = ["Score", "coordinate", "other_draws", "other_instances", "scores", "sizes_text"]

_LEVEL = (2.5, 97.5)


@dataclass(frozen=True)
class Score:
    """The score of one model.

    Attributes:
        model: its name.
        size: its size.
        draws: of all instances together.
        passed: instances with a pass; of a table that counts the whole task, its passes.
        pu: mean of the unbiased instance rates.
        pu_published: mean by the paper's estimator.
        measurement_error: standard error by other draws on the same instances.
        task_error: standard error by other instances of the same kind, the measurement's part taken off; nan where the table has
            one instance or counts the whole task.
        low: lower end of the 95 % interval by measurement.
        high: upper end.
        task_low: lower end of the 95 % interval for other instances too (bootstrap); nan where the table counts the whole task.
        task_high: upper end.
        f: log(−log PU); None where PU is 0 or 1.
        f_error: its standard error by measurement, s.e.(PU) / (PU |log PU|).
        mean_log: −mean of log p over the instances that every model passes, in nats; None where there is none.
        log_instances: how many these are; 0 where the table counts the whole task.
    """

    model: str
    size: float
    draws: int
    passed: int
    pu: float
    pu_published: float
    measurement_error: float
    task_error: float
    low: float
    high: float
    task_low: float
    task_high: float
    f: float | None
    f_error: float | None
    mean_log: float | None
    log_instances: int

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def coordinate(pu: Floats | float) -> Floats:
    """F = log(−log PU); nan where PU is not strictly between 0 and 1.

    Args:
        pu: pass rates.
    """
    pu = np.asarray(pu, float)
    inside = np.where((pu > 0) & (pu < 1), pu, np.nan)
    return np.asarray(np.log(-np.log(inside)))


def other_draws(counts: Counts, rng: np.random.Generator, repeats: int) -> Floats:
    """Scores as other draws on the same instances would give them, [repeats, models]: the parametric bootstrap of counts.

    Draws until r passes scatter with the square of the rate, so that simulating with estimated rates, which scatter themselves,
    gives too wide a distribution. It is therefore scaled to the unbiased estimate of its variance.

    Args:
        counts: the table, whose plans of sampling are used again.
        rng: source of randomness.
        repeats: how many.
    """
    rates = counts.rates
    n, c = simulate(rates, counts.cap, counts.r, rng, (repeats, *counts.n.shape))
    means, score = unbiased(n, c, counts.r).mean(-1), rates.mean(1)
    error, wide = np.sqrt(counts.variances.sum(1)) / rates.shape[1], means.std(0)
    scale = np.where(wide > 0, error / np.where(wide > 0, wide, 1.0), 1.0)
    return np.asarray(np.clip(score + (means - score) * scale, 0.0, 1.0))


def other_instances(counts: Counts, rng: np.random.Generator, repeats: int) -> Floats:
    """Scores as other instances of the same kind would give them, [repeats, models]: instances drawn anew with replacement.

    The same ones are drawn for all models. The scatter of the estimates over instances has the error of measurement in it.

    Args:
        counts: the table.
        rng: source of randomness.
        repeats: how many.
    """
    items = len(counts.instances)
    weights = rng.multinomial(items, np.full(items, 1 / items), size=repeats) / items
    return np.asarray(weights @ counts.rates.T)


def scores(counts: Counts, repeats: int = 2000, seed: int = 0) -> list[Score]:
    """The score of each model.

    Args:
        counts: the table.
        repeats: of the bootstrap.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    rates, spread = counts.rates, counts.variances
    items = len(counts.instances)
    means, other = other_draws(counts, rng, repeats), other_instances(counts, rng, repeats)
    logs, solvable = _mean_logs(counts)
    old = published(counts.n, counts.c, counts.r).mean(1)
    found = []
    for i, model in enumerate(counts.models):
        ends = (float("nan"), float("nan")) if counts.whole else np.percentile(other[:, i], _LEVEL)
        task_low, task_high = map(float, ends)
        pu = float(rates[i].mean())
        measured = float(np.sqrt(spread[i].sum()) / items)
        total = float(rates[i].var(ddof=1) / items) if items > 1 else float("nan")
        low, high = _interval(counts, i, means[:, i])
        f = float(coordinate(pu))
        defined = np.isfinite(f)
        found.append(
            Score(
                model,
                float(counts.sizes[i]),
                int(counts.n[i].sum()),
                int(counts.c[i].sum() if counts.whole else (counts.c[i] > 0).sum()),
                pu,
                float(old[i]),
                measured,
                float(np.sqrt(max(0.0, total - measured**2))) if items > 1 else float("nan"),
                low,
                high,
                task_low,
                task_high,
                f if defined else None,
                float(measured / (pu * abs(np.log(pu)))) if defined else None,
                None if logs is None else float(logs[i]),
                solvable,
            )
        )
    return found


def _interval(counts: Counts, place: int, means: Floats) -> tuple[float, float]:
    """Of the mean by measurement; exact where there is one instance, or where no draw or every draw passed."""
    n, c, r = counts.n[place], counts.c[place], counts.r[place]
    if len(n) == 1:
        low, high = interval(n, c, r)
        return float(low[0]), float(high[0])
    if not c.any():
        # No pass comes with probability Π (1 − p)^n ≤ exp(−n_min Σ p), which is 5 % at this sum.
        return 0.0, min(1.0, float(-np.log(0.05) / n.min() / len(n)))
    low, high = np.percentile(means, _LEVEL)
    return float(low), float(high)


def _mean_logs(counts: Counts) -> tuple[Floats | None, int]:
    """−mean log p over the instances that every model passes, without bias where draws went on until r passes."""
    solvable = (counts.c > 0).all(0)
    if counts.whole or not solvable.any():  # the log of a mean is no mean of logs
        return None, 0
    n, c, r = counts.n[:, solvable], counts.c[:, solvable], counts.r[:, solvable]
    ended = (r > 0) & (c == r)
    special = special_functions()
    unbiased_log, _ = log_rate(n, np.maximum(c, 1))
    # For other plans no unbiased form exists; ψ(c + ½) − ψ(n + 1) is the posterior mean under Jeffreys's prior.
    logs = np.where(ended, unbiased_log, special.digamma(c + 0.5) - special.digamma(n + 1.0))
    return -logs.mean(1), int(solvable.sum())


def sizes_text(sizes: Sequence[float]) -> list[str]:
    """Sizes for people, such as 1.2B.

    Args:
        sizes: numbers.
    """
    found = []
    for size in sizes:
        unit, letter = next(
            ((u, t) for u, t in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")) if size >= u), (1.0, "")
        )
        found.append(f"{size / unit:.3g}{letter}" if size < 1e15 else f"{size:.3g}")
    return found
