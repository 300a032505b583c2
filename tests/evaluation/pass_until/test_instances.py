"""The laws of instances: planted distributions, censored counts, predictions that cover; and hard instances by loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fulgurite.evaluation.pass_until.counts import table_of
from fulgurite.evaluation.pass_until.estimators import simulate
from fulgurite.evaluation.pass_until.instances import fit_instances, predict_instances
from fulgurite.evaluation.pass_until.study import study_of
from tests.evaluation.pass_until.series import ALPHA, LOG_C, SIZES, rows_of, true_score


def differing(seed: int, items: int = 120) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log c and α of each instance, and the rates at SIZES."""
    rng = np.random.default_rng(seed)
    middle = np.log(SIZES).mean()
    alpha = ALPHA * np.exp(0.3 * rng.standard_normal(items))
    level = LOG_C - ALPHA * middle + 0.3 * rng.standard_normal(items)
    log_c = level + alpha * middle
    return log_c, alpha, np.exp(-np.exp(log_c - alpha * np.log(SIZES)[:, None]))


def test_planted_distribution_of_instances_is_recovered():
    _, alpha, rates = differing(0)
    n, c = simulate(rates, 50_000, 20, np.random.default_rng(1))
    fit = fit_instances(np.array(SIZES), n, c)
    assert fit.mean[0] == pytest.approx(LOG_C - ALPHA * np.log(SIZES).mean(), abs=0.1)
    assert fit.mean[1] == pytest.approx(np.log(ALPHA), abs=0.1)
    assert np.sqrt(np.diag(fit.spread)) == pytest.approx([0.3, 0.3], abs=0.08)
    assert np.corrcoef(np.exp(fit.kappa), alpha)[0, 1] > 0.8


def test_instances_without_a_pass_are_used():
    """With them put away the score of the next size would be far too high."""
    log_c, alpha, rates = differing(2)
    n, c = simulate(rates, 60, 2, np.random.default_rng(3))
    truth = np.exp(-np.exp(log_c - alpha * np.log(5e9))).mean()
    never = c.sum(0) == 0
    assert never.sum() >= 5
    fit = fit_instances(np.array(SIZES), n, c)
    without = fit_instances(np.array(SIZES), n[:, ~never], c[:, ~never])
    assert abs(fit.rates(5e9).mean() / truth - 1) < 0.3
    assert abs(fit.rates(5e9).mean() - truth) < abs(without.rates(5e9).mean() - truth)


def test_prediction_covers_and_many_tables_fit_as_one_by_one():
    within, rejected = 0, 0
    for seed in range(12):
        log_c, alpha, rates = differing(10 + seed, 60)
        n, c = simulate(rates, 20_000, 5, np.random.default_rng(seed))
        rows = [
            replace(
                row, n=int(n[int(row.model[1:]), int(row.instance)]), c=int(c[int(row.model[1:]), int(row.instance)])
            )
            for row in rows_of()
        ]
        found = predict_instances(table_of(rows), {"next": 5e9}, None, 40, seed)
        truth = np.exp(-np.exp(log_c - alpha * np.log(5e9))).mean()
        within += found.predictions[0].low <= truth <= found.predictions[0].high
        rejected += found.p_value < 0.05
    assert within >= 9 and rejected <= 3
    both = fit_instances(np.array(SIZES), np.stack([n, n]), np.stack([c, c]))
    one = fit_instances(np.array(SIZES), n, c)
    assert both.gamma[1] == pytest.approx(one.gamma, abs=1e-6)


def test_alike_instances_give_the_task_law():
    table = table_of(rows_of(items=100))
    found = predict_instances(table, {"next": 5e9}, {"next": (true_score(5e9), 0.01)}, 40)
    assert found.predictions[0].pu == pytest.approx(true_score(5e9), rel=0.1) and found.predictions[0].agrees


def test_one_size_is_refused():
    with pytest.raises(ValueError, match="needs 2 or more"):
        fit_instances(np.array([1e6]), np.ones((1, 3), int), np.ones((1, 3), int))


def test_hard_instances_go_by_the_loss_of_their_reference():
    """Instances whose passes lie beyond the draws: the loss knows them, log(−log p) = −1.5 + log ℓ."""
    rng = np.random.default_rng(5)
    level = np.concatenate([rng.normal(3.6, 0.4, 40), np.full(30, 5.2)])
    loss = np.exp(level[None] - 0.12 * (np.log(SIZES) - np.log(SIZES).mean())[:, None])
    rates = np.exp(-np.exp(-1.5) * loss)
    n, c = simulate(rates, 3000, 0, rng)
    rows = [
        replace(
            row,
            n=int(n[int(row.model[1:]), int(row.instance)]),
            c=int(c[int(row.model[1:]), int(row.instance)]),
            r=0,
            cap=0,
            loss=float(loss[int(row.model[1:]), int(row.instance)]),
        )
        for row in rows_of(items=70)
    ]
    study = study_of(table_of(rows), predict={"next": 5e9}, repeats=200, instance_repeats=20)
    assert study.loss is not None and study.loss.hard >= 30
    assert (study.loss.slope, study.loss.intercept) == (pytest.approx(1, abs=0.15), pytest.approx(-1.5, abs=0.4))
    assert [one.fit for one in study.predictions] == ["task", "instances", "instances, hard ones by loss"]
    truth = np.exp(-np.exp(-1.5 + level - 0.12 * (np.log(5e9) - np.log(SIZES).mean()))).mean()
    assert study.predictions[2].pu == pytest.approx(truth, rel=0.25)
