"""Spearman against scipy's definition, fronts, and a report of answers whose levels are known."""

from __future__ import annotations

import math
import random

import pytest

from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
from fulgurite.evaluation.controllability import (
    Asked,
    ControlReport,
    ask,
    conditions_to_ask,
    covers,
    hypervolume,
    pareto_front,
    spearman,
)

TWO = Objectives({"a": [1, 5], "b": [0, 1]})


def test_spearman():
    assert spearman([1, 2, 3, 4], [10, 20, 30, 31]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Without ties: 1 - 6 Σd² / (n(n² − 1)) with d = 0, 1, 1, 0.
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    # Ties at their mean rank: Pearson of (1.5, 1.5, 3) and (1, 2, 3).
    assert spearman([0, 0, 1], [5, 6, 7]) == pytest.approx(1.5 / math.sqrt(1.5 * 2))
    assert math.isnan(spearman([1, 2, 3], [1, 1, 1]))
    for bad in (([1], [1]), ([1, 2], [1])):
        with pytest.raises(ValueError, match="the same number of values, at least two"):
            spearman(*bad)


def test_spearman_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    draw = random.Random(0)
    for _ in range(20):
        first = [draw.randint(0, 4) for _ in range(30)]
        second = [x + draw.randint(0, 3) for x in first]
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic)


def test_fronts():
    points = [(1, 5), (2, 4), (2, 3), (5, 1), (4, 1), (3, 3), (3, 3)]
    assert pareto_front(points) == [(1, 5), (2, 4), (3, 3), (5, 1)]
    assert covers(pareto_front(points), points) == []
    assert covers([(3, 3)], points) == [(1, 5), (2, 4), (5, 1), (4, 1)]
    assert covers([(3, 3)], [(3.1, 3.1), (3.2, 3)], (0.1, 0.1)) == [(3.2, 3)]
    assert hypervolume([(2, 3), (3, 2), (1, 1)], (1, 1)) == 2 + 1
    assert hypervolume([(1, 5), (5, 1)], (1, 1)) == 0
    assert pareto_front([]) == [] and hypervolume([], (0, 0)) == 0


def test_what_is_asked_for():
    found = conditions_to_ask(Objectives(OBJECTIVES))
    assert len(found) == 1 + (5 + 5 + 2) + (25 + 10 + 10) and found[0] == {}
    assert len(conditions_to_ask(Objectives(OBJECTIVES), two_at_once=False)) == 13
    levels = [c["x"] for c in conditions_to_ask(Objectives({"x": [0, 10]})) if c]
    assert levels == [0, 2.5, 5, 7.5, 10]
    assert [c["x"] for c in conditions_to_ask(Objectives({"x": [0, 0.5]})) if c] == [0, 0.125, 0.25, 0.375, 0.5]


def test_a_model_that_obeys_one_objective_and_pays_with_the_other():
    """Level a is met exactly; b is 1 without a condition, and 0 wherever a above 3 is asked for."""

    def answer(prompts):
        return [prompt.removesuffix("q") for prompt in prompts]

    def rate(instruction, text):
        assert instruction == "q"
        condition, _ = TWO.apart(text)
        a = condition.get("a", 2)
        return {"a": a, "b": condition.get("b", float(a <= 3))}

    report = ControlReport(TWO, ask(answer, ["q"] * 3, TWO, rate, conditions_to_ask(TWO)))
    assert report.rho("a", ["a"]) == pytest.approx(1) and report.rho("b", ["a", "b"]) == pytest.approx(1)
    assert report.curve("a") == [(level, level) for level in range(1, 6)]
    assert report.falls() == {("a", "b"): (pytest.approx(0.4), 1.0), ("b", "a"): (0.0, 0.0)}
    points = report.points("a", "b")
    assert points[5, 1] == (5, 1) and points[None] == (2, 1)
    assert pareto_front(list(points.values())) == [(5, 1)]
    assert [(r["controlled"], r["objective"], r["answers"], r["distance"]) for r in report.rows()] == [
        ("a", "a", 15, 0), ("b", "b", 6, 0), ("a+b", "a", 30, 0), ("a+b", "b", 30, 0)
    ]  # fmt: skip


def test_a_model_that_does_not_listen_has_no_correlation_and_unrated_answers_do_not_count():
    answers = [Asked({"a": level}, {"a": 3} if level else {}) for level in (1, 2, 3, 4)] + [Asked({"a": 5}, {})]
    report = ControlReport(TWO, answers)
    assert math.isnan(report.rho("a", ["a"])) and math.isnan(report.mean("a", {"a": 5}))
    (row,) = report.rows()
    assert row["answers"] == 4 and row["distance"] == pytest.approx(1.0)


def test_spearman_of_nan_is_nan():
    assert math.isnan(spearman([math.nan, 1, 2], [1, 2, 3])) and math.isnan(spearman([1, 2], [math.nan, math.nan]))


@pytest.mark.parametrize(
    ("rating", "words"),
    [
        ({"a": math.nan, "b": 1}, r"rate returned \{'a': nan, 'b': 1\} for the instruction 'q'; allowed .* a, b to finite numbers"),
        ({"a": math.inf}, "to finite numbers"),
        ({"a": "5"}, "to finite numbers"),
        ("5", "rate returned '5' for the instruction 'q'; allowed is a mapping"),
        (None, "allowed is a mapping"),
        ({"c": 5}, "rate rates none of a, b"),
        (ZeroDivisionError("words"), "rate raised ZeroDivisionError: words, for the instruction 'q'"),
    ],
)  # fmt: skip
def test_a_rater_is_tried_before_anything_is_generated(rating, words):
    def rate(instruction, text):
        if isinstance(rating, Exception):
            raise rating
        return rating

    def never(prompts):
        raise AssertionError("answers were generated")

    with pytest.raises(ValueError, match=words):
        ask(never, ["q"], TWO, rate, conditions_to_ask(TWO))


def test_an_objective_that_does_not_apply_is_absent_or_none():
    def rate(instruction, text):
        return {"a": 3, "b": None, "c": "not looked at"} if instruction == "q" else {}

    found = ask(lambda prompts: prompts, ["r", "q"], TWO, rate, [{}])
    assert [asked.achieved for asked in found] == [{}, {"a": 3.0}]
