"""The law: planted parameters, the cover of its intervals, its checks, the curvature test and the forms."""

from __future__ import annotations

import numpy as np
import pytest

from fulgurite.evaluation.pass_until.datasets import other_draws, scores
from fulgurite.evaluation.pass_until.forms import compare_forms, curvature, multi_step, two_circuits
from fulgurite.evaluation.pass_until.law import Points, fit_law, held_out, points_of, predicted
from tests.evaluation.pass_until.series import ALPHA, LOG_C, SIZES, counts_of, true_score


def test_score_of_a_series_and_its_two_errors():
    table = counts_of(spread=0.3, items=200)
    for place, score in enumerate(scores(table, 500)):
        rates = table.rates[place]
        assert score.pu == pytest.approx(rates.mean())
        assert score.measurement_error == pytest.approx(np.sqrt(table.variances[place].sum()) / 200)
        assert score.measurement_error**2 + score.task_error**2 == pytest.approx(rates.var(ddof=1) / 200)
        assert score.low < score.pu < score.high and score.task_high - score.task_low > score.high - score.low
        assert score.f == pytest.approx(np.log(-np.log(score.pu)))
        assert score.pu_published > score.pu


@pytest.mark.parametrize("r", [0, 3, 5])
def test_bootstrap_has_the_true_width(r):
    """Draws until r passes: simulating with the estimates as they are would be too wide by up to a factor of 1.4."""
    scored, wide = [], []
    for seed in range(150):
        table = counts_of(seed=seed, sizes=SIZES[-3:], r=r, cap=20_000 if r else 300)
        scored.append(table.rates.mean(1))
        wide.append(other_draws(table, np.random.default_rng(seed), 200).std(0))
    assert np.sqrt((np.array(wide) ** 2).mean(0)) / np.std(scored, 0) == pytest.approx(1, abs=0.2)


def test_mean_of_logs_is_above_the_log_of_the_mean_where_every_instance_passes():
    (_, *middle, last) = scores(counts_of(spread=0.3, items=200, log_c=7.5), 200)
    for score in (*middle, last):
        assert score.log_instances == 200 and score.mean_log is not None
        assert score.mean_log > -np.log(score.pu) + 0.02  # Jensen


def exact(values: np.ndarray, sizes: tuple[float, ...] = SIZES, error: float = 0.01, seed: int = 0) -> Points:
    """Points with F as given and normal errors."""
    rng = np.random.default_rng(seed)
    drawn = values + error * rng.standard_normal((2000, len(values)))
    names = tuple(f"m{i}" for i in range(len(values)))
    return Points(names, np.array(sizes), values, np.full(len(values), error), drawn, drawn)


def test_a_line_without_noise_is_met_exactly():
    law = fit_law(exact(LOG_C - ALPHA * np.log(SIZES)))
    assert (law.log_c, law.alpha) == (pytest.approx(LOG_C), pytest.approx(ALPHA))
    assert law.deviance == pytest.approx(0, abs=1e-12) and law.p_value == 1
    assert float(np.exp(-np.exp(law.f(5e9)))) == pytest.approx(true_score(5e9))


def test_planted_law_is_recovered_and_intervals_cover():
    alphas, inside, within, alarms = [], 0, 0, 0
    for seed in range(60):
        law = fit_law(points_of(counts_of(seed=seed), 300, seed))
        last = predicted(law, "next", 5e9)
        alphas.append(law.alpha)
        inside += law.alpha_interval[0] <= ALPHA <= law.alpha_interval[1]
        within += last.low <= true_score(5e9) <= last.high
        alarms += law.p_value < 0.05
    assert np.mean(alphas) == pytest.approx(ALPHA, abs=4 * np.std(alphas) / np.sqrt(60))
    assert inside >= 52 and within >= 52  # 57 expected; fewer than 52 has a chance of 1 in 100
    assert alarms <= 9


def test_held_out_sizes_are_the_largest_and_the_second_largest():
    found = held_out(points_of(counts_of(), 300))
    assert [(one.model, one.fitted) for one in found] == [("m5", 5), ("m4", 4)]
    assert all(one.agrees for one in found)
    assert found[0].relative_error == pytest.approx((found[0].pu - found[0].truth) / found[0].truth)


def test_too_few_sizes():
    with pytest.raises(ValueError, match="2 sizes"):
        fit_law(points_of(counts_of(sizes=SIZES[:2]), 200))


def test_curvature_is_found_where_planted_and_rarely_elsewhere():
    sign = {0.03: "convex (sub-scaling)", -0.03: "concave (super-scaling)"}
    for bend, label in sign.items():
        assert curvature(points_of(counts_of(bend=bend, items=164), 400)).label == label
    alarms = sum(curvature(points_of(counts_of(seed=100 + s), 300, s)).label != "none" for s in range(60))
    assert alarms <= 8  # 3 expected


def test_no_label_below_five_sizes():
    found = curvature(points_of(counts_of(sizes=SIZES[-4:], bend=0.08, items=164), 300))
    assert found.low > 0 and found.label == "none" and "4 sizes are fewer than the 5" in found.reason
    assert curvature(points_of(counts_of(sizes=SIZES[:3]), 300)) is None


def test_points_that_scatter_around_the_quadratic_widen_its_interval():
    x = np.log(SIZES) - np.log(SIZES).mean()
    jagged = exact(2 - 0.3 * x - 0.02 * x * x + 0.2 * np.array([1, -1, 1, -1, 1, -1]))
    found = curvature(jagged)
    assert found.widened > 5 and found.label == "none" and found.low < found.value < found.high
    smooth = curvature(exact(2 - 0.3 * x - 0.02 * x * x))
    assert smooth.widened == 1 and smooth.label == "concave (super-scaling)"


def test_forms_have_their_sides_and_are_told_apart():
    sizes = np.geomspace(1e7, 1e10, 8)
    x = np.log(sizes) - np.log(sizes).mean()
    parameters = np.array([1.8, 0.05, 1.8, 0.5])
    best = two_circuits(x, parameters, "majority")
    assert (np.diff(best, 2) < 1e-9).all()
    assert two_circuits(x, parameters, "softmax", 1e-4) == pytest.approx(best, abs=0.02)
    assert np.abs(two_circuits(x, parameters, "softmax", 1.0) - best).max() > 0.1
    assert (np.diff(multi_step(x, parameters), 2) > 0).all()
    assert two_circuits(x, np.array([2.0, 0.3, 2.0, 0.3]), "proportional") == pytest.approx(2 - 0.3 * x)
    for form, truth in (
        ("linear", 2 - 0.3 * x),
        ("two-circuit", two_circuits(x, parameters, "majority")),
        ("multi-step", multi_step(x, parameters)),
    ):
        forms = compare_forms(exact(truth, tuple(sizes), 0.002), "majority")
        assert forms[0].name == form, [(f.name, f.aicc) for f in forms]
        assert forms[0].p_value is not None and forms[0].p_value > 0.5


def test_forms_with_too_many_parameters_have_no_aicc():
    forms = compare_forms(exact(LOG_C - ALPHA * np.log(SIZES[:5]), SIZES[:5]))
    assert {form.name: form.aicc is None for form in forms} == {
        "linear": False,
        "quadratic": False,
        "two-circuit": True,
        "multi-step": True,
    }
