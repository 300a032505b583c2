"""Estimators of one instance: the specification's vectors, no bias by exact enumeration and by simulation, intervals that cover."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fulgurite.evaluation.pass_until.estimators import (
    expected_draws,
    interval,
    log_rate,
    posterior,
    published,
    simulate,
    unbiased,
    variance,
    zero_limit,
)


def test_known_values():
    assert unbiased(20, 2, 2) == pytest.approx(0.0526316, abs=1e-7)
    assert published(20, 2, 2) == pytest.approx(0.1)
    assert np.sqrt(variance(20, 2, 2)) == pytest.approx(0.0526316, abs=1e-7)
    low, high = interval(20, 2, 2)
    assert (low, high) == (pytest.approx(0.012349, abs=1e-6), pytest.approx(0.260281, abs=1e-6))
    assert log_rate(4, 1)[0] == pytest.approx(-1.833333, abs=1e-6)
    assert log_rate(5, 2)[0] == pytest.approx(-1.083333, abs=1e-6)
    assert zero_limit(100_000) == pytest.approx(2.9957e-5, rel=1e-3)
    assert [float(x) for x in posterior(20, 2, 1, 1)] == [3, 19]


@pytest.mark.parametrize("p, draws", [(1e-4, (9_999.5, 19_995, 49_571)), (1e-5, (63_212, 89_636, 99_931))])
def test_expected_draws_are_those_of_the_specification(p, draws):
    assert [float(expected_draws(p, r, 100_000)) for r in (1, 2, 5)] == pytest.approx(draws, rel=1e-4)


def outcomes(p: float, r: int, cap: int) -> list[tuple[float, int, int]]:
    """Every end of the draws with its probability."""
    ended = [(math.comb(k - 1, r - 1) * p**r * (1 - p) ** (k - r), k, r) for k in range(r, cap + 1)]
    return ended + [(math.comb(cap, c) * p**c * (1 - p) ** (cap - c), cap, c) for c in range(r)]


@pytest.mark.parametrize("p", [0.02, 0.3, 0.9])
@pytest.mark.parametrize("r, cap", [(2, 2), (2, 7), (3, 40), (5, 12)])
def test_estimate_and_its_variance_are_exactly_unbiased_under_a_cap(p, r, cap):
    found = outcomes(p, r, cap)
    assert sum(chance for chance, _, _ in found) == pytest.approx(1)
    mean = sum(chance * unbiased(n, c, r) for chance, n, c in found)
    square = sum(chance * unbiased(n, c, r) ** 2 for chance, n, c in found)
    assert mean == pytest.approx(p, rel=1e-12)
    assert sum(chance * variance(n, c, r) for chance, n, c in found) == pytest.approx(square - mean**2, rel=1e-9)


def test_log_rate_is_unbiased_without_a_cap():
    p, chances = 0.3, np.arange(3, 400)
    weight = np.array([math.comb(k - 1, 2) * 0.3**3 * 0.7 ** (k - 3) for k in chances])
    assert (weight * log_rate(chances, 3)[0]).sum() == pytest.approx(math.log(p), rel=1e-9)


@pytest.mark.parametrize("p", [1e-1, 1e-3, 1e-5])
@pytest.mark.parametrize("r, factor", [(3, 1.5), (5, 1.25), (10, 10 / 9)])
def test_simulation_unbiased_within_one_per_cent_and_published_has_its_bias(p, r, factor):
    rng = np.random.default_rng(r)
    n, c = simulate(np.full(400_000, p), int(1000 * r / p), r, rng)
    assert unbiased(n, c, r).mean() / p == pytest.approx(1, abs=0.01)
    if p < 0.01:
        assert published(n, c, r).mean() / p == pytest.approx(factor, rel=0.02)


@pytest.mark.parametrize("r, p, cap, old", [(2, 1e-3, 500, 0.775), (2, 1e-3, 5000, 1.97), (5, 1e-3, 2000, 0.178)])
def test_a_cap_biases_the_published_estimate_only(r, p, cap, old):
    n, c = simulate(np.full(600_000, p), cap, r, np.random.default_rng(1))
    assert published(n, c, r).mean() / p == pytest.approx(old, rel=0.02)
    assert unbiased(n, c, r).mean() / p == pytest.approx(1, abs=0.01)  # s.e. 0.003


@pytest.mark.parametrize("r", [2, 5])
def test_intervals_cover_at_their_rate_where_the_cap_is_far(r):
    p = 1e-3
    n, c = simulate(np.full(100_000, p), 1_000_000, r, np.random.default_rng(2))
    low, high = interval(n, c, r)
    assert ((low <= p) & (p <= high)).mean() == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("p", [0.0008, 0.0031, 0.0035, 0.01, 0.3])
@pytest.mark.parametrize("r, cap", [(0, 1000), (2, 1000), (5, 1000)])
def test_intervals_never_cover_less_than_they_say(p, r, cap):
    if r == 0:
        found = [(math.comb(cap, c) * p**c * (1 - p) ** (cap - c), cap, c) for c in range(cap + 1) if c < 600]
    else:
        found = outcomes(p, r, cap)
    chance, n, c = (np.array(values) for values in zip(*found, strict=True))
    low, high = interval(n, c, r)
    assert chance[(low <= p) & (p <= high)].sum() >= 0.95


def test_the_one_sided_limit_covers_too_little_as_the_end_of_a_two_sided_interval():
    """Why `interval` does not take 1 − 0.05^(1/M) after no pass: the rate 3.3 / M would be held in less than 95 of 100."""
    p, cap = 0.0033, 1000
    chance, n, c = (np.array(values) for values in zip(*outcomes(p, 5, cap), strict=True))
    low, high = interval(n, c, 5)
    high = np.where(c == 0, zero_limit(n), high)
    assert chance[(low <= p) & (p <= high)].sum() < 0.95


def test_simulated_counts_have_the_exact_distribution():
    p, r, cap = 0.2, 3, 9
    n, c = simulate(np.full(400_000, p), cap, r, np.random.default_rng(3))
    for chance, draws, passes in outcomes(p, r, cap):
        assert ((n == draws) & (c == passes)).mean() == pytest.approx(chance, abs=0.003)


def test_simulation_without_any_chance_and_with_certainty():
    n, c = simulate([0.0, 1.0, 0.0, 1.0], [50, 50, 50, 50], [2, 2, 0, 0], np.random.default_rng(0))
    assert n.tolist() == [50, 2, 50, 50] and c.tolist() == [0, 2, 0, 50]


def test_one_pass_has_no_unbiased_estimate():
    with pytest.raises(ValueError, match="draw until 2 or more passes"):
        unbiased(10, 1, 1)
