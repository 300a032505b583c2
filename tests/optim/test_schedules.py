"""Schedules in closed form."""

from __future__ import annotations

import math

import pytest

from fulgurite.optim import StagedSchedule, threshold_stages


def test_linear_warmup_and_decay_end_at_zero():
    schedule = StagedSchedule([100], warmup_ratio=0.1)
    assert [schedule(s) for s in (0, 9)] == pytest.approx([1 / 11, 10 / 11])
    assert schedule(10) == 1.0 and schedule(55) == pytest.approx(0.5) and schedule(100) == 0.0


def test_each_stage_warms_up_and_decays_anew():
    schedule = StagedSchedule([40, 20], warmup_ratio=0.0)
    assert (schedule(39), schedule(40), schedule(50), schedule(60)) == pytest.approx((1 / 40, 1.0, 0.5, 0.0))
    assert [schedule.stage(s) for s in (0, 39, 40, 59, 999)] == [0, 0, 1, 1, 1]


def test_cosine_and_constant():
    assert StagedSchedule([10], 0.0, "cosine")(5) == pytest.approx(0.5)
    assert StagedSchedule([10], 0.2, "constant")(9) == 1.0


def test_threshold_schedules():
    linear = threshold_stages("linear", 0.0, 7e-4, 7)
    assert linear == pytest.approx([0, 1.1667e-4, 2.3333e-4, 3.5e-4, 4.6667e-4, 5.8333e-4, 7e-4], rel=1e-3)
    geometric = threshold_stages("geometric", 1e-4, 8e-4, 4)
    assert geometric == pytest.approx([1e-4, 2e-4, 4e-4, 8e-4])
    log = threshold_stages("log", 0.0, 1.0, 3)
    assert log == pytest.approx([0.0, math.log(1 + (math.e - 1) / 2), 1.0])
    assert threshold_stages([0, 1e-4, 1e-3], 5.0) == [0.0, 1e-4, 1e-3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cubic", 0.0, 1.0, 3), "'linear', 'log', 'geometric'"),
        (("linear", 0.0, None, 3), "max_threshold"),
        (("linear", 0.5, 0.1, 3), "max_threshold"),
        (("linear", 0.0, 1.0, 1), "stages >= 2"),
        (("geometric", 0.0, 1.0, 3), "cannot start at 0"),
        (([3e-4, 1e-4], 0.0), "must not fall"),
    ],
)
def test_bad_threshold_schedules(arguments, words):
    with pytest.raises(ValueError, match=words):
        threshold_stages(*arguments)
