"""One way to read ratings, in preferences, critiques and CPO's rows: what nobody can read is no rating, and is counted."""

from __future__ import annotations

from typing import Any

import pytest

from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
from fulgurite.data.conditions.reader import RatedReader
from fulgurite.data.readers.conversations import ConversationReader
from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.sources.locate import list_source


def answer(text: str, helpfulness: object, honesty: object = "N/A", **more: object) -> dict[str, Any]:
    annotations = {"helpfulness": {"Rating": helpfulness}, "honesty": {"Rating": honesty}}
    return {"response": text, "annotations": annotations, **more}


def preferences(*completions: dict[str, Any], **options: Any) -> tuple[list[Any], PreferenceReader]:
    other = {"instruction": "other", "completions": [answer("x", "5"), answer("y", "1")]}
    reader = PreferenceReader(
        [list_source("rows", [{"instruction": "hi", "completions": list(completions)}, other])], **options
    )
    return [record for record in reader if record.prompt[0].content == "hi"], reader


@pytest.mark.parametrize("given", ["five", "4/5", "5 of 5", "1_0", True, [5], "nan", float("nan"), "inf"])
def test_what_is_no_number_is_no_rating(given: object) -> None:
    """The better answer, rated in words, must not lose against a worse one by the other aspect's low rating."""
    found, reader = preferences(answer("best", given, "1"), answer("middle", "3"), answer("worst", "2"))
    assert [record.completions for record in found] == [("middle", "worst")]
    assert reader.tally.notes == {"an answer left out: rating is no number": 1}
    found, reader = preferences(answer("best", given), answer("worst", "2"))
    assert found == [] and reader.tally.counts == {"fewer than two answers": 1}


@pytest.mark.parametrize("given", ["6", 0, "-1", 1e9, "10"])
def test_what_lies_outside_its_scale_is_no_rating(given: object) -> None:
    found, reader = preferences(answer("best", given, "1"), answer("middle", "3"), answer("worst", "2"))
    assert [record.completions for record in found] == [("middle", "worst")]
    assert reader.tally.notes == {"an answer left out: rating outside its scale": 1}


def test_a_fine_grained_score_outside_its_scale_is_not_taken() -> None:
    unrated = {"fine-grained_score": 99}
    found, reader = preferences(answer("unrated", "N/A", **unrated), answer("middle", "3"), answer("worst", "2"))
    assert [record.completions for record in found] == [("middle", "worst")]
    assert reader.tally.notes == {"an answer left out: rating outside its scale": 1}
    assert "fine-grained_score is rated 99" in next(iter(reader.tally.first.values()))[0]


@pytest.mark.parametrize("given", ["ten", "9/10", True, 11])
def test_overall_scores(given: object) -> None:
    rows = (answer("best", "5", overall_score=given), answer("middle", "3", overall_score="7"))
    found, reader = preferences(*rows, answer("worst", "2", overall_score=2.0), score="overall")
    assert [record.scores for record in found] == [(7.0, 2.0)]
    assert (
        sum(reader.tally.notes.values()) == 3
    )  # this answer, and the two of the other row, which have no overall score


def critiques(**completion: object) -> tuple[str, ConversationReader]:
    whole = {"response": "r", "critique": "c", **completion}
    reader = ConversationReader([list_source("rows", [{"instruction": "hi", "completions": [whole]}])])
    (conversation,) = list(reader)
    return conversation.turns[-1].content.rsplit(" ", 1)[1], reader


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        # Ratings that are numbers count as their texts do, and count before a fine-grained score.
        ({"overall_score": 10, "annotations": {"honesty": {"Rating": 1}}}, "1"),
        ({"overall_score": 10, "fine-grained_score": 1.0, "annotations": {"honesty": {"Rating": "4"}}}, "10"),
        ({"overall_score": 10, "fine-grained_score": 4.5, "annotations": {"honesty": {"Rating": "1"}}}, "1"),
        ({"overall_score": 10, "annotations": {"honesty": {"Rating": "one"}}}, "10"),
        ({"overall_score": "10", "fine-grained_score": -7}, "10"),
    ],
)
def test_critiques_and_preferences_agree_on_ten(completion: dict[str, Any], expected: str) -> None:
    score, reader = critiques(**completion)
    assert score == expected
    assert (reader.tally.notes == {"overall_score 10 read as 1": 1}) == (expected == "1")
    found, _ = preferences({"response": "r", **completion}, {"response": "s", "overall_score": 2}, score="overall")
    assert found[0].scores == (float(expected), 2.0)


def test_rated_answers_take_ratings_in_the_same_way() -> None:
    completions = [answer("a", "five"), answer("b", "1_0"), answer("c", True), answer("d", "9"), answer("e", 3)]
    reader = RatedReader(
        [list_source("rows", [{"instruction": "hi", "completions": completions}])], Objectives(OBJECTIVES)
    )
    (record,) = list(reader)
    assert record.completions == ("e",)
    left = "an answer left out: "
    assert reader.tally.notes == {left + "rating is no number": 3, left + "rating outside its scale": 1}
