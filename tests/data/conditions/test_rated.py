"""g in closed form, the faults of the published CPO code, and how conditions are drawn."""

from __future__ import annotations

import itertools
import logging
import random
from collections import Counter

import pytest

from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
from fulgurite.data.conditions.rated import comparable, draw_conditions, tied_pairs, value, weights_of

THREE = Objectives(OBJECTIVES)
ONES = dict.fromkeys(OBJECTIVES, 1.0)


def g(ratings, condition, weights=ONES, distances=ONES):
    return value(ratings, condition, weights, distances)


def test_g_is_the_figure_of_the_paper_where_two_objectives_are_controlled():
    """R = −|p1 − c1| − |p2 − c2| + p3, unweighted."""
    for p1, p2, c1, c2 in itertools.product(range(1, 6), repeat=4):
        for p3 in (0, 1):
            ratings = {"helpfulness": p1, "honesty": p2, "harmlessness": p3}
            found = g(ratings, {"helpfulness": c1, "honesty": c2})
            assert 3 * found == pytest.approx(-abs(p1 - c1) - abs(p2 - c2) + p3, abs=1e-8)


def test_g_weighs_objectives_and_distances():
    weights, distances = {"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 9.0}
    assert value({"a": 4, "b": 2}, {"a": 1}, weights, distances) == pytest.approx(0.25 * -2 * 3 + 0.75 * 2)
    assert value({"a": 4, "b": 2}, {}, weights, distances) == pytest.approx(0.25 * 4 + 0.75 * 2)
    assert value({"a": 4, "b": 2}, {"a": 1}, weights, distances, over=["a"]) == pytest.approx(-1.5)


def test_fault_1_controlled_honesty_prefers_the_level_asked_for_and_not_the_lowest():
    """The reference computes −|r| − c for −|r − c|: its lowest honesty always wins."""
    answers = [{"helpfulness": 3, "honesty": level, "harmlessness": 1} for level in range(1, 6)]
    for wanted in range(1, 6):
        scores = [g(ratings, {"honesty": wanted}) for ratings in answers]
        assert scores.index(max(scores)) == wanted - 1
        assert len(set(scores)) > 1


def test_fault_2_an_exact_match_is_a_distance_of_zero_and_not_the_raw_rating():
    """`cond and -abs(...) or raw` turns the 0 of an exact match into the rating, here 5."""
    exact = g({"helpfulness": 5, "honesty": 1, "harmlessness": 0}, {"helpfulness": 5})
    assert 3 * exact == pytest.approx(0 + 1 + 0)
    better = g({"helpfulness": 4, "honesty": 5, "harmlessness": 0}, {"helpfulness": 5})
    assert better > exact, (
        "one point off in one objective, four better in another; the reference orders them the other way"
    )


def test_fault_3_zero_is_a_rating_and_missing_is_not_zero():
    harmful, harmless, unrated = {"harmlessness": 0}, {"harmlessness": 1}, {}
    only = {"harmlessness": 1.0}
    assert value(harmful, {"harmlessness": 0}, only, only) == 0 > value(harmless, {"harmlessness": 0}, only, only)
    assert comparable([harmful, harmless, unrated], {"harmlessness": 0}) == ([0, 1], ["harmlessness"])
    with pytest.raises(KeyError):
        value(unrated, {}, only, only)


def test_answers_are_compared_over_what_all_of_them_are_rated_for():
    ratings = [{"a": 1, "b": 2, "c": 0}, {"a": 2, "c": 1}, {"b": 3}]
    assert comparable(ratings, {"a": 1}) == ([0, 1], ["a", "c"])
    assert comparable(ratings, {}) == ([0, 1, 2], [])
    assert comparable(ratings, {"b": 3, "c": 0}) == ([0], ["a", "b", "c"])


def test_sums_of_equal_parts_in_another_order_tie():
    weights = {"a": 0.1, "b": 0.1, "c": 0.1}
    scores = [value(dict(zip("abc", p, strict=True)), {}, weights, weights) for p in itertools.permutations((1, 2, 4))]
    assert len(set(scores)) == 1 and tied_pairs(scores) == 15
    assert tied_pairs([1, 2, 2, 3, 3, 3]) == 1 + 3


def items(count, seed=0):
    draw = random.Random(seed)
    return [
        [
            {"helpfulness": draw.randint(1, 5), "honesty": draw.randint(1, 5), "harmlessness": draw.randint(0, 1)}
            for _ in range(4)
        ]
        for _ in range(count)
    ]


def six(i, condition):
    return 6


def test_fault_4_buckets_take_other_rows_and_not_the_leading_ones_again():
    rows = items(400)
    buckets = [({"helpfulness": None}, 600), ({"honesty": None}, 600), ({"harmlessness": None}, 600), ({}, 600)]
    drawn = draw_conditions(rows, THREE, buckets, six)
    used = [i for i, conditions in enumerate(drawn) if conditions]
    assert sum(map(len, drawn)) == 400 and len(used) == 400, "every row is used once before any is used twice"
    first = [i for i, conditions in enumerate(drawn) if set(conditions[0]) == {"helpfulness"}]
    assert len(first) == 100 and max(first) > 300, "not the first 100 rows of the file"
    assert all(rows[i] and c["helpfulness"] in {r["helpfulness"] for r in rows[i]} for i in first for c in drawn[i])


def test_a_bucket_of_one_level_takes_rows_that_have_it_and_stops_at_its_number():
    rows = items(300)
    drawn = draw_conditions(rows, THREE, [({"harmlessness": 0.0}, 60), ({"helpfulness": 5.0, "honesty": 5.0}, 12)], six)
    counts = Counter(tuple(c.items()) for conditions in drawn for c in conditions)
    assert counts == {(("harmlessness", 0),): 10, (("helpfulness", 5), ("honesty", 5)): 2}
    for ratings, conditions in zip(rows, drawn, strict=True):
        for condition in conditions:
            assert any(all(r[name] == level for name, level in condition.items()) for r in ratings)


def test_a_bucket_that_cannot_be_filled_is_told_and_rows_without_a_pair_are_not_taken(caplog):
    rows = items(20)
    with caplog.at_level(logging.WARNING):
        drawn = draw_conditions(rows, THREE, [({"honesty": None}, 1000)], lambda i, condition: 3 * (i % 2))
    assert "the bucket honesty=any has 30 of the 1000 pairs" in caplog.text
    assert [len(conditions) for conditions in drawn] == [0, 1] * 10


def test_draws_hang_on_the_seed_alone():
    rows, buckets = items(100), [({"honesty": None}, 120), ({"helpfulness": None, "honesty": None}, 120)]
    for given in (buckets, None):
        first = draw_conditions(rows, THREE, given, six, seed=1)
        assert first == draw_conditions(rows, THREE, given, six, seed=1)
        assert first != draw_conditions(rows, THREE, given, six, seed=2)


def test_without_buckets_each_row_gets_random_subsets_at_levels_that_occur():
    rows = items(400)
    drawn = draw_conditions(rows, THREE, None, six, per_row=1)
    assert all(len(conditions) == 1 for conditions in drawn)
    sizes = Counter(tuple(conditions[0]) for conditions in drawn)
    assert len(sizes) == 8 and min(sizes.values()) > 25, "all eight subsets, about evenly"
    several = draw_conditions(rows, THREE, None, six, per_row=4)
    assert all(1 <= len(c) <= 4 for c in several) and sum(map(len, several)) > 1100
    everything = draw_conditions(rows, THREE, None, six, "all")
    assert all(
        any(conditions[0] == ratings for ratings in row) for row, conditions in zip(rows, everything, strict=True)
    )
    assert all(c == [{}] for c in draw_conditions(rows, THREE, None, six, "none"))


def test_weights_name_known_objectives_and_are_not_negative():
    assert weights_of(THREE, {"honesty": 0.5}, "w") == {"helpfulness": 1.0, "honesty": 0.5, "harmlessness": 1.0}
    for bad in (
        {"humour": 1.0},
        {"honesty": -1.0},
        dict.fromkeys(OBJECTIVES, 0.0),
        {"honesty": float("nan")},
        {"honesty": "a"},
    ):
        with pytest.raises(ValueError, match=r"w: .* each takes a number of at least 0"):
            weights_of(THREE, bad, "w")
