"""Bad input of a series: one clear error or a stated omission each."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fulgurite.evaluation.pass_until.counts import Count, table_of
from fulgurite.evaluation.pass_until.datasets import scores
from fulgurite.evaluation.pass_until.estimators import interval
from fulgurite.evaluation.pass_until.law import points_of
from fulgurite.evaluation.pass_until.study import study_of
from tests.evaluation.pass_until.series import SIZES, rows_of

ROW = Count("m", 1e6, "a", 10, 3, where="file, line 2")


@pytest.mark.parametrize(
    "change, told",
    [
        ({"c": 11}, "file, line 2: m, instance a: n=10, c=11"),
        ({"c": -1}, "c=-1"),
        ({"n": 0, "c": 0}, "n=0"),
        ({"n": 1, "c": 1}, "one draw does not tell its own error"),
        ({"size": 0.0}, "size 0"),
        ({"size": float("nan")}, "size nan"),
        ({"r": 1, "cap": 20, "c": 1}, "draw until 2 or more passes"),
        ({"r": 2, "cap": 20}, "c is at most r"),
        ({"r": 4, "cap": 3}, "the cap is at least r"),
        ({"r": 4, "cap": 8}, "n is at most the cap"),
        ({"stop": "items"}, "stop='items' was given; allowed are instance and task"),
        ({"stop": "task", "items": 3}, "stop=task with r=0 and items=3"),
        ({"stop": "task", "r": 4, "cap": 20}, "stop=task with r=4 and items=0"),
    ],
)
def test_impossible_rows(change, told):
    with pytest.raises(ValueError, match=told):
        table_of([replace(ROW, **change)])


@pytest.mark.parametrize(
    "other, told",
    [
        ({"where": "line 9"}, "stands at file, line 2 and at line 9"),
        ({"instance": "b", "size": 2e6}, "a model has one size"),
        ({"model": "k"}, "one model of each size"),
        ({"model": "k", "size": 2e6, "instance": "b"}, "no instance is counted for all models"),
        ({"model": "k", "size": 2e6, "settings": "t=1"}, "sampling settings differ"),
        ({"model": "k", "size": 2e6, "grader": "2"}, "graders differ"),
    ],
)
def test_rows_that_do_not_go_together(other, told):
    with pytest.raises(ValueError, match=told):
        table_of([ROW, replace(ROW, **other)])


def test_no_rows():
    with pytest.raises(ValueError, match="no counts were given"):
        table_of([])


def test_models_are_sorted_and_missing_instances_are_left_out_and_said():
    rows = [Count(m, s, i, 10, 3) for m, s in (("large", 2e6), ("small", 1e6)) for i in "ab"]
    table = table_of([*rows, Count("small", 1e6, "c", 10, 1)])
    assert table.models == ("small", "large") and table.instances == ("a", "b")
    assert table.notes == ("1 of 3 instances are left out because not every model has them (missing in large)",)


def test_different_caps_and_plans_are_said():
    rows = [replace(ROW, r=5, cap=50), replace(ROW, instance="b", r=5, cap=90), replace(ROW, instance="d")]
    table = table_of(rows)
    assert "r=5 with cap 50, r=5 with cap 90" in table.notes[0] and "some of draws until r passes" in table.notes[1]
    assert "2 instances ended before their 5 passes and before their cap" in table.notes[2]
    assert table.cap.tolist() == [[10, 10, 10]]  # those that ended early: their own draws


@pytest.mark.parametrize("c, told", [(0, "none of 12000 draws passed"), (200, "all of 12000 draws passed")])
def test_all_zero_and_all_one(c, told):
    rows = [Count(f"m{i}", 10.0**i, str(s), 200, c) for i in range(3) for s in range(20)]
    with pytest.raises(ValueError, match=told):
        points_of(table_of(rows))


def test_one_model_without_a_pass_is_left_out_of_the_line_and_used_for_the_instances():
    rows = rows_of(items=30)
    none = [replace(row, c=0, n=row.cap) if row.model == "m0" else row for row in rows]
    study = study_of(table_of(none), repeats=200, instance_repeats=20)
    assert study.law is not None and study.law.models == ("m1", "m2", "m3", "m4", "m5")
    assert any(note.startswith("m0: no draw of 600000 passed") for note in study.notes)
    assert study.scores[0].pu == 0 and 0 < study.scores[0].high < 1e-4 and study.scores[0].f is None


def test_two_sizes_have_scores_and_no_law():
    study = study_of(table_of(rows_of(SIZES[-2:])), repeats=200)
    assert study.law is None and study.verdict == "not tested" and "needs 3" in study.reasons[0]
    assert len(study.scores) == 2 and study.predictions == []


def test_nothing_below_fit_up_to():
    with pytest.raises(ValueError, match="below the smallest size, 36M"):
        study_of(table_of(rows_of()), 1e6)


def test_rates_of_mixed_plans():
    table = table_of([replace(ROW, r=3, cap=50), replace(ROW, instance="b")])
    assert np.allclose(table.rates, [[2 / 9, 3 / 10]])


WHOLE = Count("m", 1e6, "t 1f", 900, 11, 11, 10_000, stop="task", items=40, where="line 2")


def test_a_row_of_a_whole_task_is_no_instance():
    table = table_of([WHOLE, replace(WHOLE, model="k", size=2e6, n=300)])
    assert table.whole == 40 and table.of_models([1]).whole == 40
    assert "ended at the r-th pass of the whole task, its 40 instances in random order" in table.notes[0]
    small, large = scores(table, 300)
    assert (small.pu, large.pu) == pytest.approx((10 / 899, 10 / 299)) and small.passed == 11
    assert small.low == pytest.approx(interval(900, 11, 11)[0]) and small.high == pytest.approx(
        interval(900, 11, 11)[1]
    )
    assert small.mean_log is None and small.log_instances == 0
    assert np.isnan([small.task_error, small.task_low, small.task_high]).all()


@pytest.mark.parametrize(
    "other, told",
    [
        ({"stop": "instance", "items": 0, "where": "line 3"}, "of the task at line 2, of the instance at line 3"),
        ({"instance": "t 2e"}, "the tasks differ: t 1f, 40 instances, at line 2; t 2e, 40 instances"),
        ({"items": 20}, "t 1f, 20 instances"),
    ],
)
def test_rules_of_stopping_are_not_mixed(other, told):
    with pytest.raises(ValueError, match=told):
        table_of([WHOLE, replace(WHOLE, model="k", size=2e6, **other)])
