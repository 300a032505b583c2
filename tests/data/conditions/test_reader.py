"""Rated answers: CPO's item schema, UltraFeedback and UltraSafety; what is missing, zero, N/A, half rated or off the scale."""

from __future__ import annotations

import json

import pytest

from fulgurite.data.conditions.objectives import OBJECTIVES, Objectives
from fulgurite.data.conditions.reader import RatedReader
from fulgurite.data.sources.locate import file_source, list_source

THREE = Objectives(OBJECTIVES)


def read(rows, objectives=THREE, **options):
    reader = RatedReader([list_source("rows", rows)], objectives, **options)
    return list(reader), reader


def item(*answers):
    return {
        "instruction": "Explain tides.",
        "responses": [{"response": f"answer {i}", **a} for i, a in enumerate(answers)],
    }


def annotated(**ratings):
    return {"response": "yes", "annotations": {name: {"Rating": rating} for name, rating in ratings.items()}}


def test_the_published_item_schema_with_both_names_of_helpfulness_and_texts_of_numbers():
    row = item(
        {"Helpfulness_Rating": "5", "Honesty_Rating": 3, "Harmlessness_Rating": 0},
        {"Helpful_Rating": 2.0, "Honesty_Rating": "N/A", "Harmlessness_Rating": None},
        {"Harmlessness_Rating": "1"},
    )
    (record,), reader = read([row])
    assert record.ratings == (
        {"helpfulness": 5, "honesty": 3, "harmlessness": 0},
        {"helpfulness": 2},
        {"harmlessness": 1},
    )
    assert record.completions == ("answer 0", "answer 1", "answer 2")
    assert reader.schemas == {"rows": "cpo"} and reader.tally.lost == 0 and not reader.tally.notes


def test_ultrafeedback_and_ultrasafety_annotations():
    feedback = {
        "instruction": "q",
        "completions": [annotated(helpfulness="4", honesty="N/A"), annotated(helpfulness="1", honesty="5")],
    }
    safety = {
        "instruction": "q",
        "completions": [
            {"response": "no", "annotations": {"harmlessness": [{"Rating": "0"}, {"Rating": "1"}]}},
            {"response": "yes", "annotations": {"harmlessness": [{"Rating": 1}]}},
        ],
    }
    (first, second), reader = read([feedback, safety])
    assert first.ratings == ({"helpfulness": 4}, {"helpfulness": 1, "honesty": 5})
    assert second.ratings == ({"harmlessness": 0}, {"harmlessness": 1})
    assert reader.schemas == {"rows": "completions"}


def test_any_objective_with_its_own_scale():
    objectives = Objectives({"brevity": [-10, 10], "rhyme": [0, 1]})
    (record,), _ = read([item({"brevity": -2.5, "rhyme_rating": 1}, {"Brevity_Rating": 10})], objectives)
    assert record.ratings == ({"brevity": -2.5, "rhyme": 1}, {"brevity": 10})


def test_answers_that_cannot_be_used_are_left_out_and_counted_by_reason():
    rows = [
        item(
            {"Honesty_Rating": 5},
            {"Honesty_Rating": 6},
            {"Honesty_Rating": 0},
            {"Honesty_Rating": "high"},
            {"Honesty_Rating": True},
            {},
            {"Honesty_Rating": "N/A"},
            {"response": "  ", "Honesty_Rating": 5},
        )
    ]
    (record,), reader = read(rows)
    assert record.ratings == ({"honesty": 5},)
    left = "an answer left out: "
    assert reader.tally.notes == {
        left + "rating outside its scale": 2,
        left + "rating is no number": 2,
        left + "not rated": 2,
        left + "empty answer": 1,
    }
    assert (
        "answer 2: honesty is 6; the scale goes from 1 to 5" in reader.tally.first[left + "rating outside its scale"][0]
    )


def test_a_row_without_a_rated_answer_is_counted_or_stops_the_run():
    rows = [item({"Honesty_Rating": 1}), item({}, {})]
    records, reader = read(rows)
    assert len(records) == 1 and reader.tally.counts == {"no rated answer": 1}
    with pytest.raises(ValueError, match="row 2: no rated answer: none of 2 answers can be used; correct the row"):
        read(rows, on_bad_row="error")
    with pytest.raises(
        ValueError, match=r"none of 1 rows .* is a row of rated answers(.|\n)*1 kept, an answer left out: not rated"
    ):
        read([item({})])


def test_columns_that_fit_no_schema_and_lists_that_are_none():
    with pytest.raises(ValueError, match="fit no schema"):
        read([{"instruction": "q", "answer": "a"}])
    records, reader = read([item({"Honesty_Rating": 1}), {"instruction": "q", "responses": "text"}])
    assert len(records) == 1 and reader.tally.counts == {"not a list": 1}


def test_fault_5_a_folder_of_both_data_sets_is_read_whole(tmp_path):
    """The reference writes one name and loads another, and its second data set overwrites the first."""
    feedback = {"instruction": "a", "completions": [annotated(helpfulness=1), annotated(helpfulness=2)]}
    safety = {"instruction": "b", "completions": [annotated(harmlessness=0), annotated(harmlessness=1)]}
    sources = []
    for name, row in (("ultrafeedback", feedback), ("ultrasafety", safety)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
        sources.append(file_source(tmp_path / f"{name}.jsonl"))
    records = list(RatedReader(sources, THREE))
    assert [r.ratings[0] for r in records] == [{"helpfulness": 1}, {"harmlessness": 0}]
