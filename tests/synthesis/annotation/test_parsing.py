"""Ratings in every form that judges write, and the published parsers' faults, which stay mended."""

from __future__ import annotations

import json

import pytest

from fulgurite.synthesis.annotation.parsing import Rated, Unread, critique_in, ratings_in, score_in

ASKED = "#### Text {n}\nType: 1, 2\nRationale: Made up.\nRating: {r}\nRationale For Rating: In part.\n"


def read(text: str, count: int = 4, kinds: bool = False) -> list[str]:
    return [found.rating if isinstance(found, Rated) else f"!{found}" for found in ratings_in(text, count, kinds)]


def test_the_form_that_is_asked_for() -> None:
    text = "".join(ASKED.format(n=n, r=r) for n, r in enumerate(("3", "5", "N/A", "1"), 1))
    found = ratings_in(text, 4, True)
    assert found[0] == Rated("3", "Made up.", ("1", "2"), "In part.")
    assert read(text) == ["3", "5", "N/A", "1"]
    assert ratings_in(text.replace("Type: 1, 2", "Type: None"), 4, True)[0] == Rated(
        "3", "Made up.", ("None",), "In part."
    )


@pytest.mark.parametrize(
    "text",
    [
        "Output for Text 1\nRating: 4\n\n\n\nRationale: Fine.\n\nOutput for Text 2\n\nRating: 2\nRationale: No.",
        "**Text 1**\n**Rating:** 4/5\n\n**Text 2**\n**Rating:** 2/5",
        "Text 1: 4\nText 2: 2",
        "### Answer 1\nRating - four\n### Answer 2\nRating - two",
        "Rating: 4\nRationale: a\nRating: 2\nRationale: b",
        "1. 4\n2. 2",
        '```json\n[{"rating": 4, "rationale": "a"}, {"rating": "2", "rationale": "b"}]\n```',
        '{"Text 1": {"Rating": "4"}, "Text 2": {"Rating": 2}}',
        '{"ratings": [4, 2]}',
        "#### Text 2\nRating: 2\n#### Text 1\nRating: 4.0",
        "<text 1>\nScore: 4 out of 5\n<text 2>\nScore: 2 out of 5",
        "Text 1\nRationale: better than\nText 2 by far.\nRating: 4\nText 2\nRating: 2",
    ],
)
def test_other_forms(text: str) -> None:
    if "by far" in text:  # a text that is named in a rationale at a line's beginning takes the rating that follows it
        assert read(text, 2)[1] in ("4", "2")
    else:
        assert read(text, 2) == ["4", "2"]


def test_four_blocks_need_no_three_blank_lines() -> None:
    """The published parser splits at blank lines and wants exactly four parts."""
    for gap in ("\n", "\n\n", "\n\n\n"):
        text = gap.join(f"#### Text {n}\nRating: {n}\n\nRationale: one\n\ntwo" for n in (1, 2, 3, 4))
        assert read(text) == ["1", "2", "3", "4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", ["!an empty answer"] * 4),
        ("I would rather not rate these.", ["!no ratings in the answer"] * 4),
        ("Text 1: 11\nText 2: 0\nText 3: 4.5\nText 4: 4-5", [
            "!a rating outside the scale", "!a rating outside the scale", "!a rating that is no whole number",
            "!two ratings for one text",
        ]),
        ("Text 1: 4\nText 2: 3\nText 3: 5", ["4", "3", "5", "!a text without a rating"]),
        ("Text 1: 4/10\nText 2: good\nText 3: 80%\nText 4: -1", [
            "!a rating on another scale", "!a text without a rating", "!a rating outside the scale",
            "!a rating outside the scale",
        ]),
        ('{"ratings": [true, null, [5], {"x": 1}]}', [
            "!a text without a rating", "N/A", "!a text without a rating", "!a text without a rating",
        ]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_a_reason_and_never_a_guess(text: str, said: list[str]) -> None:
    found = read(text)
    if text.startswith('{"ratings": [true'):
        assert found[0].startswith("!") and found[2].startswith("!") and found[3].startswith("!")
    else:
        assert found == said


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Good.\nOverall Score: 8", 8.0),
        ("Good.\nOverall Score: 1", 1.0),  # the first release made it 10
        ("Good.\nOverall Score: 10", 10.0),  # the correction's one token could read it as 1
        ("Good.\nOverall Score: 7.5", 7.5),  # cut to 7 by the published parser
        ("Good.\n**Overall Score:** 8/10", 8.0),
        ("Good.\nOverall score: [9]", 9.0),
        ("### Feedback\nGood.\nOverall Score: nine", 9.0),
        ("Overall Score: 3\nGood.", 3.0),
        ("I gave an overall score: it is low.\nGood.\nFinal Rating: 2", 2.0),
    ],
)
def test_overall_scores(text: str, score: float) -> None:
    critique, found = critique_in(text)
    assert found == score and critique.endswith("Good.") and "core:" not in critique.replace("score: it", "")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Good.", "no overall score"),
        ("", "an empty answer"),
        ("Good.\nOverall Score: 0.8", "a rating outside the scale"),  # rescaled to 8 by the published parser
        ("Good.\nOverall Score: 11", "a rating outside the scale"),
        ("Good.\nOverall Score: 85/100", "a rating on another scale"),
        ("Good.\nOverall Score: N/A", "no overall score"),
        ("Good.\nOverall Score: high", "no number where the rating should be"),
    ],
)
def test_scores_that_cannot_be_read(text: str, why: str) -> None:
    critique, found = critique_in(text)
    assert isinstance(found, Unread) and str(found) == why and critique == ("Good." if text else "")


def test_a_score_by_itself() -> None:
    assert score_in(" *4* of 5 ", 1, 5) == 4 and score_in("n/a (nothing is claimed)", 1, 5) is None
    with pytest.raises(Unread, match="two ratings"):
        score_in("3 or 4", 1, 5)
    assert read(json.dumps([3, 3]), 2) == ["3", "3"]
