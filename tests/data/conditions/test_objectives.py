"""Condition tokens: spellings and their way back, fixed order, what is typed, and what is refused."""

from __future__ import annotations

import pytest

from fulgurite.data.conditions.objectives import OBJECTIVES, SPELLINGS, Objectives

THREE = Objectives(OBJECTIVES)


@pytest.mark.parametrize(
    ("spelling", "written"),
    [
        ("canonical", "<helpfulness:5> <honesty:3> <harmlessness:0> "),
        ("paper", "< Helpfulness: 5 > < Honesty: 3 > < Harmlessness: 0 > "),
        ("legacy", "< helpfulness: 5 > < honesty: 3 > < harmlessness: 0 > "),
        ("legacy_cdpo", "< helplessness: 5 > < honesty: 3 > < harmlessness: 0 > "),
    ],
)
def test_spellings_are_those_of_the_publications_and_come_back(spelling, written):
    objectives = Objectives(OBJECTIVES, spelling)
    condition = {"harmlessness": 0.0, "helpfulness": 5.0, "honesty": 3.0}
    assert objectives.prefix(condition) == written, "the order is the objectives', not the condition's"
    assert objectives.apart(written + "Explain < tides > .") == (condition, "Explain < tides > .")
    assert objectives.apart("Explain tides.") == ({}, "Explain tides.")


def test_every_subset_and_level_comes_back_in_every_spelling():
    for spelling in SPELLINGS:
        objectives = Objectives({"helpfulness": [1, 5], "brevity": [-1, 1]}, spelling)
        for condition in ({}, {"helpfulness": 4.5}, {"brevity": -0.25}, {"helpfulness": 1.0, "brevity": 0.0}):
            assert objectives.apart(objectives.prefix(condition) + "<helpfulness:9>x")[0] in (
                condition,
                {**condition, "helpfulness": 9.0},
            )
            assert objectives.apart(objectives.prefix(condition) + "x") == (condition, "x")


def test_other_spellings_are_left_in_the_text():
    assert THREE.apart("< honesty: 5 > x") == ({}, "< honesty: 5 > x")
    assert Objectives(OBJECTIVES, "legacy").apart("<honesty:5> x") == ({}, "<honesty:5> x")


def test_what_is_typed():
    assert THREE.parse("honesty=3, helpfulness=5") == {"helpfulness": 5.0, "honesty": 3.0}
    assert THREE.parse("none") == {}
    assert THREE.parse("harmlessness=0") == {"harmlessness": 0.0}
    assert THREE.parse("honesty=any", any_level=True) == {"honesty": None}


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("honesty=6", "honesty=6; its scale goes from 1 to 5"),
        ("harmlessness=-1", "its scale goes from 0 to 1"),
        ("honest=5", "'honest' is no objective that was trained with; .*did you mean 'honesty'"),
        ("safety=1", "those are helpfulness, honesty, harmlessness; choose among these"),
        ("honesty", "OBJECTIVE=LEVEL is needed"),
        ("honesty=any", "OBJECTIVE=LEVEL is needed"),
        ("honesty=nan", "OBJECTIVE=LEVEL is needed"),
        ("honesty=1,honesty=2", "each objective once"),
        ("", "OBJECTIVE=LEVEL is needed"),
    ],
)
def test_what_cannot_be_asked_for_is_one_clear_error(typed, message):
    with pytest.raises(ValueError, match=message):
        THREE.parse(typed)


@pytest.mark.parametrize(
    ("scales", "spelling", "message"),
    [
        ({}, "canonical", "give at least one"),
        ({"a b": [1, 5]}, "canonical", "a name is a word"),
        ({"none": [1, 5]}, "canonical", "other than 'any' and 'none'"),
        ({"a": [5, 1]}, "canonical", "lowest and highest"),
        ({"a": [1]}, "canonical", "lowest and highest"),
        ({"a": ["x", "y"]}, "canonical", r"the scale of 'a' is \['x', 'y'\]; lowest and highest"),
        ({"a": "15"}, "canonical", "the scale of 'a' is '15'; lowest and highest"),
        ({"a": 5}, "canonical", "lowest and highest"),
        ({"a": [1, 5]}, "british", "allowed are 'canonical'"),
        ({"helpfulness": [1, 5], "helplessness": [1, 5]}, "legacy_cdpo", "writes two of"),
    ],
)
def test_objectives_that_cannot_be_written_are_refused(scales, spelling, message):
    with pytest.raises(ValueError, match=message):
        Objectives(scales, spelling)


def test_another_scale_or_spelling_is_refused_and_fewer_objectives_are_not():
    """Fault 6 of the reference: training, second stage and tests wrote their tokens differently."""
    seen = Objectives.from_dict(THREE.to_dict())
    assert seen == THREE and hash(seen) == hash(THREE)
    THREE.check_same(Objectives({"honesty": [1, 5]}), "a", "b")
    for other in (
        Objectives(OBJECTIVES, "legacy"),
        Objectives({"honesty": [1, 10]}),
        Objectives({"brevity": [1, 5]}),
    ):
        with pytest.raises(ValueError, match="differ"):
            THREE.check_same(other, "the weights", "the data")
    assert THREE.only(["honesty", "helpfulness"]) == Objectives({"helpfulness": [1, 5], "honesty": [1, 5]})
    assert THREE.only([]) is None
    with pytest.raises(ValueError, match="says nothing about objectives"):
        Objectives.from_dict({"objectives": {}})
