"""The pass rate of one instance from n draws with c passes, under either way of ending the draws.

Two plans of sampling are known here: n draws that were fixed beforehand (r = 0), and draws until the r-th pass or until a cap of
M draws. With p the true pass rate, q = 1 − p and K the number of draws up to the r-th pass:

    published (arXiv 2310.03262, Eq. 2)  r / K, and 0 where the cap came first. It is biased upward, twofold for r = 2 and small p.
    unbiased (Girshick, Mosteller, Savage 1946)  (r − 1) / (n − 1) where c = r, else c / n
    its variance, unbiased (Finney 1949)  p̂ (1 − p̂) / (n − 2) where c = r, else p̂ (1 − p̂) / (n − 1)
    log p, unbiased, where c = r  ψ(r) − ψ(n), with variance at most ψ′(r) − ψ′(n)
    likelihood  p^c q^(n − c) under both plans, so the posterior under Beta(a, b) is Beta(a + c, b + n − c)

All functions take arrays that broadcast. An unbiased estimate for r = 1 exists (1 if the first draw passes, else 0) but is of no
use, therefore `unbiased` refuses r = 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = [
    "Floats",
    "Ints",
    "expected_draws",
    "interval",
    "log_rate",
    "posterior",
    "published",
    "simulate",
    "special_functions",
    "unbiased",
    "variance",
    "zero_limit",
]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


def special_functions() -> Any:
    """scipy.special.

    Raises:
        ImportError: scipy is not installed.
    """
    try:
        import scipy.special
    except ImportError as error:
        raise ImportError("scaling: scipy is not installed; pip install 'fulgurite[scaling]'") from error
    return scipy.special


def published(n: npt.ArrayLike, c: npt.ArrayLike, r: npt.ArrayLike) -> Floats:
    """The estimate of the paper: r / K, 0 where the cap came first; c / n for draws of fixed number.

    Args:
        n: draws.
        c: passes.
        r: passes at which the draws ended; 0 for a fixed number of draws.
    """
    n, c, r = _whole(n, c, r)
    return np.where((r > 0) & (c < r), 0.0, c / n)


def unbiased(n: npt.ArrayLike, c: npt.ArrayLike, r: npt.ArrayLike = 0) -> Floats:
    """The unbiased estimate of the pass rate, with and without a cap.

    Args:
        n: draws.
        c: passes.
        r: passes at which the draws ended; 0 for a fixed number of draws.

    Raises:
        ValueError: r = 1.
    """
    n, c, r = _whole(n, c, r)
    if (r == 1).any():
        raise ValueError(
            "unbiased: r=1 was given; no useful unbiased estimate exists there; draw until 2 or more passes"
        )
    return np.where((r > 0) & (c == r), (r - 1) / np.maximum(n - 1, 1), c / n)


def variance(n: npt.ArrayLike, c: npt.ArrayLike, r: npt.ArrayLike = 0) -> Floats:
    """The unbiased estimate of the variance of `unbiased`; nan for a single draw, which tells nothing about it.

    Args:
        n: draws.
        c: passes.
        r: passes at which the draws ended; 0 for a fixed number of draws.
    """
    p = unbiased(n, c, r)
    n, c, r = _whole(n, c, r)
    freedom = np.where((r > 0) & (c == r), n - 2, n - 1)
    ended_at_once = (r > 0) & (c == r) & (n == r)  # p̂ = 1: the formula is 0, or 0 / 0 for r = 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.where(freedom > 0, p * (1 - p) / freedom, np.nan)
    return np.where(ended_at_once, 0.0, found)


def log_rate(n: npt.ArrayLike, r: npt.ArrayLike) -> tuple[Floats, Floats]:
    """The unbiased estimate of log p, and its variance, of instances whose draws ended at the r-th pass.

    Args:
        n: draws, K.
        r: passes, from 1.
    """
    special = special_functions()
    n, r = np.asarray(n, float), np.asarray(r, float)
    value = special.digamma(r) - special.digamma(n)
    spread = special.polygamma(1, r) - special.polygamma(1, n)
    return np.asarray(value, np.float64), np.asarray(spread, np.float64)


def interval(n: npt.ArrayLike, c: npt.ArrayLike, r: npt.ArrayLike = 0, level: float = 0.95) -> tuple[Floats, Floats]:
    """The exact two-sided interval of the pass rate (Clopper and Pearson's, and its twin for draws until the r-th pass).

    Args:
        n: draws.
        c: passes.
        r: passes at which the draws ended; 0 for a fixed number of draws.
        level: the share of intervals that hold the truth, at least.
    """
    special = special_functions()
    n, c, r = _whole(n, c, r)
    tail = (1 - level) / 2
    ended = (r > 0) & (c == r)
    low = np.where(c == 0, 0.0, special.betaincinv(np.maximum(c, 1), np.maximum(n - c + 1, 1), tail))
    upper_a = np.where(ended, c, c + 1)
    high = np.where(n == c, 1.0, special.betaincinv(upper_a, np.maximum(n - c, 1), 1 - tail))
    return low, high


def zero_limit(n: npt.ArrayLike, level: float = 0.95) -> Floats:
    """The one-sided upper limit after n draws without a pass: 1 − (1 − level)^(1/n), about 3/n at 95 %.

    It is lower than the upper end of `interval`, which shares its error between both sides.

    Args:
        n: draws.
        level: how often the limit holds.
    """
    return np.asarray(-np.expm1(np.log1p(-level) / np.asarray(n, float)))


def posterior(n: npt.ArrayLike, c: npt.ArrayLike, a: float = 0.5, b: float = 0.5) -> tuple[Floats, Floats]:
    """Both parameters of the Beta distribution of the pass rate, the same under either plan of sampling.

    Args:
        n: draws.
        c: passes.
        a: first parameter of the prior; ½ is Jeffreys's.
        b: second parameter of the prior.
    """
    n, c = _whole(n, c)
    return (a + c).astype(np.float64), (b + (n - c)).astype(np.float64)


def expected_draws(p: npt.ArrayLike, r: int, cap: int) -> Floats:
    """Mean number of draws until the r-th pass or the cap: (1/p) Σ_j≤r P(Bin(M, p) ≥ j).

    Args:
        p: pass rates, above 0.
        r: passes that end the draws.
        cap: draws at most, M.
    """
    special = special_functions()
    p = np.asarray(p, float)
    j = np.arange(1, min(r, cap) + 1)
    return np.asarray(special.betainc(j, cap - j + 1, p[..., None]).sum(-1) / p)


def simulate(
    p: npt.ArrayLike, n: npt.ArrayLike, r: npt.ArrayLike, rng: np.random.Generator, shape: tuple[int, ...] | None = None
) -> tuple[Ints, Ints]:
    """Draws and passes of instances with known pass rates, exactly as sampling would give them.

    Args:
        p: true pass rates.
        n: the number of draws where it is fixed, else the cap.
        r: passes at which the draws end; 0 for a fixed number of draws.
        rng: source of randomness.
        shape: of the result; None for that of the arguments together.
    """
    shape = np.broadcast_shapes(np.shape(p), np.shape(n), np.shape(r)) if shape is None else shape
    rate = np.broadcast_to(np.clip(np.asarray(p, float), 0.0, 1.0), shape)
    draws = np.broadcast_to(np.asarray(n, np.int64), shape).copy()
    wanted = np.broadcast_to(np.asarray(r, np.int64), shape)
    passes = np.zeros(shape, np.int64)
    fixed = wanted == 0
    passes[fixed] = rng.binomial(draws[fixed], rate[fixed])
    if fixed.all():
        return draws, passes
    places = ~fixed & (rate > 0)
    small, need, most = rate[places], wanted[places], draws[places]
    # Below 1e-12 no cap that anybody can afford is reached; numpy's generator would overflow.
    taken = need + rng.negative_binomial(need, np.maximum(small, 1e-12))
    done = taken <= most
    found = np.where(done, need, 0)
    found[~done] = _passes_below(small[~done], most[~done], need[~done], rng)
    draws[places], passes[places] = np.where(done, taken, most), found
    return draws, passes


def _passes_below(p: Floats, cap: Ints, r: Ints, rng: np.random.Generator) -> Ints:
    """Binomial passes in `cap` draws, given that there are fewer than r."""
    special = special_functions()
    if p.size == 0:
        return np.zeros(0, np.int64)
    at = rng.random(p.size) * special.bdtr(np.minimum(r - 1, cap), cap, p)
    found = np.zeros(p.size, np.int64)
    for count in range(int(r.max()) - 1):
        found += (count < r - 1) & (at > special.bdtr(np.minimum(count, cap), cap, p))
    return found


def _whole(*values: npt.ArrayLike) -> list[Ints]:
    return list(np.broadcast_arrays(*(np.asarray(value, np.int64) for value in values)))
