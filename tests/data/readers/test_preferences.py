"""Rows of every published schema of preferences become the records that they mean; bad rows are named by place and reason."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.readers.preferences import PREFERENCE_SCHEMAS, PreferenceReader
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Finding
from fulgurite.data.records.preference import Labelled, Preference, Ranked
from fulgurite.data.sources.locate import file_source, list_source

HI = (Turn("user", "hi"),)
MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "good"}]
OTHER = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "bad"}]
PAIR = {"prompt": "hi", "chosen": "good", "rejected": "bad"}


def read(*rows: dict[str, Any], **options: Any) -> tuple[list[Any], PreferenceReader]:
    reader = PreferenceReader([list_source("rows", list(rows))], **options)
    return list(reader), reader


def only(row: dict[str, Any], **options: Any) -> Any:
    (record,), _ = read(row, **options)
    return record


def completion(
    response: str, ratings: tuple[str, ...] = (), overall: float | None = None, **more: Any
) -> dict[str, Any]:
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    annotations = {aspect: {"Rating": rating} for aspect, rating in zip(aspects, ratings, strict=False)}
    return {"response": response, "annotations": annotations, "overall_score": overall, **more}


SCHEMAS: dict[str, tuple[dict[str, Any], Any]] = {
    "ultrainteract_pair": (
        {
            "task": "Logic",
            "trajectory": [{"from": "user", "value": "hi"}],
            "chosen": "good",
            "rejected": "bad",
            "id": "p_1_1",
            "parent_id": "p",
        },
        Preference(HI, "good", "bad", "rows", 1, group="p", tag="Logic", direct=True),
    ),
    "ultrafeedback": (
        {
            "source": "flan",
            "instruction": "hi",
            "completions": [completion("good", ("5", "N/A", "4")), completion("bad", ("1",))],
        },
        Ranked(HI, ("good", "bad"), (4.5, 1.0), "rows", 1, tag="flan"),
    ),
    "ultrasafety": (
        {
            "prompt": "x",
            "instruction": "hi",
            "completions": [
                {"response": "good", "annotations": {"harmlessness": [{"Rating": "1"}, {"Rating": "0"}]}},
                {"response": "bad", "annotations": {"harmlessness": [{"Rating": "0"}]}},
            ],
        },
        Ranked(HI, ("good", "bad"), (1.0, 0.0), "rows", 1),
    ),
    "chendrag": (
        {"prompt": "hi", "A0": MESSAGES, "A1": OTHER, "score_A0": 9, "score_A1": 2.5},
        Ranked(HI, ("good", "bad"), (9.0, 2.5), "rows", 1),
    ),
    "argilla": (
        {
            "instruction": "hi",
            "chosen_response": "good",
            "rejected_response": "bad",
            "chosen_avg_rating": 4.5,
            "rejected_avg_rating": 2.0,
        },
        Preference(HI, "good", "bad", "rows", 1, 2.5),
    ),
    "llamafactory_dpo": (
        {
            "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "good"},
            "rejected": {"from": "gpt", "value": "bad"},
        },
        Preference((Turn("system", "s"), *HI), "good", "bad", "rows", 1),
    ),
    "hh_rlhf": (
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: hi\n\nAssistant: good",
            "rejected": "\n\nHuman: hi\n\nAssistant: yes\n\nHuman: hi\n\nAssistant: bad",
        },
        Preference((*HI, Turn("assistant", "yes"), *HI), "good", "bad", "rows", 1),
    ),
    "preference": (
        {"prompt": "hi", "chosen": "good", "rejected": "bad"},
        Preference((Turn("prompt", "hi"),), "good", "bad", "rows", 1),
    ),
    "unpaired": (
        {"prompt": "hi", "completion": "good", "label": True},
        Labelled((Turn("prompt", "hi"),), "good", True, "rows", 1),
    ),
    "llamafactory_kto": (
        {"messages": MESSAGES, "label": False, "system": "s"},
        Labelled((Turn("system", "s"), *HI), "good", False, "rows", 1),
    ),
}


@pytest.mark.parametrize("schema", PREFERENCE_SCHEMAS)
def test_each_schema_is_read_and_recognised(schema: str) -> None:
    row, record = SCHEMAS[schema]
    assert only(row, schema=schema) == record
    (found,), reader = read(row)
    assert found == record and reader.schemas == {"rows": schema}
    assert found.where == "rows, row 1" and found.key == (record.group or "hi")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": MESSAGES, "rejected": OTHER},
        {"chosen": MESSAGES, "rejected": OTHER},
        {"prompt": MESSAGES[:1], "chosen": MESSAGES[1:], "rejected": OTHER[1:]},
        {"prompt": MESSAGES[:1], "chosen": MESSAGES, "rejected": OTHER},
        {"prompt": "hi", "chosen": MESSAGES[1:], "rejected": OTHER[1:]},
    ],
)
def test_preferences_as_messages(row: dict[str, Any]) -> None:
    assert only(row) == Preference(HI, "good", "bad", "rows", 1)


@pytest.mark.parametrize(
    ("more", "margin"),
    [
        ({"margin": 2}, 2.0),
        ({"score_chosen": 8.0, "score_rejected": 3.5}, 4.5),
        ({"chosen-rating": 4.0, "rejected-rating": 1.0}, 3.0),
        ({"metadata": {"score_chosen": 9.0, "score_rejected": 8.0}}, 1.0),
        ({"margin": 1.0, "score_chosen": 8.0, "score_rejected": 3.5}, 1.0),
        ({}, None),
        ({"margin": "", "direct": " "}, None),
        ({"margin": "", "score_chosen": "", "score_rejected": "3.5"}, None),
        ({"margin": "", "score_chosen": "8", "score_rejected": "3.5"}, 4.5),
    ],
)
def test_margins_and_weights(more: dict[str, Any], margin: float | None) -> None:
    record = only({"prompt": "hi", "chosen": "good", "rejected": "bad", "weight": "0.5", **more})
    assert (record.margin, record.weight) == (margin, 0.5)


def test_an_empty_weight_is_none_and_an_answer_without_text_and_score_is_no_answer() -> None:
    assert only({**PAIR, "weight": ""}).weight == 1.0
    row = {"prompt": "hi", "A0": "a", "A1": "b", "A2": "", "score_A0": "3", "score_A1": "2", "score_A2": ""}
    (record,), reader = read(row)
    assert record.completions == ("a", "b") and not reader.tally.notes


def test_pairs_rated_the_other_way_round_are_kept_and_counted() -> None:
    found, reader = read(PAIR, {**PAIR, "score_chosen": 2, "score_rejected": 5}, {**PAIR, "margin": -1.5})
    assert [record.margin for record in found] == [None, -3.0, -1.5]
    assert reader.tally.lines() == [
        "2 kept, rejected scored above chosen: rows, row 2: the margin is -3; rows, row 3: the margin is -1.5"
    ]


@pytest.mark.parametrize("label", [True, 1, 1.0, "1", "1.0", " TRUE ", False, 0, 0.0, "0", "0.0", "false"])
def test_labels_as_files_have_them(label: object) -> None:
    desirable = str(label).strip().lower() in ("true", "1", "1.0")
    assert only({"prompt": "hi", "completion": "good", "label": label}).desirable is desirable


@pytest.mark.parametrize(
    "first", [{"chosen": None, "rejected": None}, {"rejected": "x"}, {"chosen": "", "rejected": ""}]
)
def test_a_first_row_with_nothing_in_it_does_not_decide_the_schema(first: dict[str, Any]) -> None:
    row, record = SCHEMAS["hh_rlhf"]
    found, reader = read(first, row)
    assert [replace(item, row=1) for item in found] == [record]
    assert reader.schemas == {"rows": "hh_rlhf"} and reader.tally.lost == 1


def test_plain_texts_can_be_a_chat() -> None:
    assert only({"prompt": "hi", "chosen": "good", "rejected": "bad"}, as_chat=True).prompt == HI
    assert only({"prompt": "hi", "completion": "good", "label": 1}, as_chat=True).prompt == HI


@pytest.mark.parametrize(
    ("score", "scores"),
    [("mean", (13 / 3, 1.5)), ("overall", (8.0, 1.0)), ("helpfulness", (4.0, math.nan)), ("honesty", (math.nan, 1.0))],
)
def test_scores_of_ultrafeedback(score: str, scores: tuple[float, float]) -> None:
    from fulgurite.data.readers.ultrafeedback import completion_score

    good = completion("good", ("5", "N/A", "4", "4"), 8.0, **{"fine-grained_score": 1.0})
    bad = completion("bad", ("2", "1"), 10.0)
    found = [completion_score(each, score)[0] for each in (good, bad)]
    assert found == [pytest.approx(value, nan_ok=True) for value in scores]


def test_the_overall_score_of_ten_is_corrected_and_counted() -> None:
    rows = [completion("a", ("2", "2"), 10.0), completion("b", ("5", "4"), 10.0), completion("c", ("3", "3"), 10.0)]
    (record,), reader = read({"instruction": "hi", "completions": rows}, score="overall", schema="ultrafeedback")
    assert record.scores == (1.0, 10.0, 10.0)
    assert reader.tally.notes == {"overall_score 10 read as 1": 1}
    assert reader.tally.first["overall_score 10 read as 1"] == ["rows, row 1: completion 1"]


def test_the_given_mean_serves_where_there_are_no_annotations() -> None:
    rows = [{"response": "a", "fine-grained_score": 4.25}, {"response": "b", "fine-grained_score": 2}]
    assert only({"instruction": "hi", "completions": rows}).scores == (4.25, 2.0)


def test_answers_that_cannot_be_compared_leave_their_row() -> None:
    rows = [completion("a", ("5",)), completion(" ", ("4",)), completion("c", ("N/A",)), completion("d", ("1",))]
    (record,), reader = read({"instruction": "hi", "completions": rows})
    assert record.completions == ("a", "d") and record.scores == (5.0, 1.0)
    assert reader.tally.notes == {"an answer left out: empty answer": 1, "an answer left out: no score": 1}
    assert reader.tally.lost == 0


TREE = SCHEMAS["ultrainteract_pair"][0]


@pytest.mark.parametrize(
    ("schema", "row", "reason", "detail"),
    [
        ("preference", {**PAIR, "rejected": "good "}, "chosen equal to rejected", "both are 'good'"),
        ("preference", {"chosen": MESSAGES, "rejected": MESSAGES}, "chosen equal to rejected", "both dialogues"),
        ("preference", {**PAIR, "chosen": " \n"}, "empty answer", "has no text"),
        ("preference", {**PAIR, "rejected": None}, "not a string", "holds None"),
        ("preference", {**PAIR, "rejected": OTHER}, "not a list", "column 'chosen' holds str"),
        ("preference", {**PAIR, "margin": "much"}, "not a number", "'margin' holds 'much'"),
        ("preference", {**PAIR, "margin": math.inf}, "not a margin", "inf"),
        ("preference", {**PAIR, "margin": 10**400}, "not a number", "'margin' holds '1000"),
        ("preference", {**PAIR, "weight": -1}, "not a weight", "at least 0"),
        ("preference", {**PAIR, "prompt": 3}, "not a string", "holds 3"),
        (
            "ultrainteract_pair",
            {**TREE, "trajectory": [*TREE["trajectory"], {"from": "assistant", "value": "x"}]},
            "prompt ends with the wrong role",
            "user, assistant",
        ),
        ("ultrainteract_pair", {**TREE, "trajectory": []}, "no prompt", "nothing stands"),
        ("ultrainteract_pair", {**TREE, "trajectory": "text"}, "not a list", "'trajectory' holds str"),
        (
            "ultrainteract_pair",
            {**TREE, "trajectory": [*TREE["trajectory"], *TREE["trajectory"]]},
            "roles out of order",
            "user, user",
        ),
        (
            "preference",
            {"chosen": MESSAGES, "rejected": [{"role": "user", "content": "ho"}, OTHER[1]]},
            "no single answer apart",
            "2 turns",
        ),
        (
            "preference",
            {"chosen": MESSAGES, "rejected": OTHER[:1]},
            "no single answer apart",
            "'rejected' has 0 turns that the other dialogue does not have",
        ),
        (
            "preference",
            {"chosen": MESSAGES, "rejected": [MESSAGES[0], MESSAGES[0]]},
            "answer of the wrong role",
            "'rejected' ends",
        ),
        ("unpaired", {"prompt": "hi", "completion": "good", "label": "maybe"}, "not a label", "'maybe'"),
        (
            "llamafactory_kto",
            {"messages": MESSAGES[:1], "label": True},
            "answer of the wrong role",
            "'messages' must end",
        ),
        (
            "ultrafeedback",
            {"instruction": "hi", "completions": [completion("a", ("5",))]},
            "fewer than two answers",
            "1 of 1",
        ),
        ("ultrafeedback", {"instruction": "hi", "completions": ["a"]}, "not an answer", "completion 1"),
        (
            "hh_rlhf",
            {"chosen": "\n\nHuman: hi\n\nAssistant: a", "rejected": "Human: hi"},
            "not a transcript",
            "'rejected' begins",
        ),
        ("hh_rlhf", {"chosen": "\n\nHuman: hi\n\nAssistant: a"}, "missing column", "no 'rejected'; found 'chosen'"),
    ],
)
def test_bad_rows(schema: str, row: dict[str, Any], reason: str, detail: str) -> None:
    good = SCHEMAS[schema][0]
    found, reader = read(good, row, schema=schema)
    assert len(found) == 1
    assert reader.tally.counts == {reason: 1}
    assert reader.tally.first[reason][0].startswith("rows, row 2") and detail in reader.tally.first[reason][0]
    with pytest.raises(ValueError, match=f"rows, row 2: {reason}"):
        read(good, row, schema=schema, on_bad_row="error")


def test_columns_that_fit_nothing_are_listed_with_those_that_would() -> None:
    with pytest.raises(ValueError, match=r"'question', 'better' fit no schema(.|\n)*preference: chosen, rejected"):
        read({"question": "hi", "better": "good"})
    with pytest.raises(ValueError, match="did you mean 'preference'"):
        read(PAIR, schema="preferense")
    with pytest.raises(ValueError, match="score 'means'; allowed are mean, overall"):
        read(PAIR, score="means")
    renamed = {"question": "hi", "better": "good", "worse": "bad"}
    names = {"prompt": "question", "chosen": "better", "rejected": "worse"}
    assert only(renamed, columns=names) == SCHEMAS["preference"][1]


def test_a_prompt_of_a_chat_is_checked_with_its_answer() -> None:
    from fulgurite.data.records.preference import checked_preference

    (found,) = checked_preference(Preference((Turn("critic", "x"), *HI), "good", "bad", "s", 3))
    assert isinstance(found, Finding) and found.reason == "unknown role" and found.where == "s, row 3"


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("file", "schema", "kept", "lost"),
    [
        ("llamafactory/dpo_en_demo.json", "llamafactory_dpo", 300, {}),
        ("llamafactory/kto_en_demo.json", "llamafactory_kto", 300, {}),
        ("torchtune/hh_rlhf_tiny.json", "preference", 1, {}),
        ("ultrainteract/readme_example_row.jsonl", "ultrainteract_pair", 1, {}),
        (
            "ultrafeedback-derived/train_clean.jsonl",
            "preference",
            994,
            {"chosen equal to rejected": 4, "empty answer": 2},
        ),
    ],
)
def test_real_rows(real_data: Path, file: str, schema: str, kept: int, lost: dict[str, int]) -> None:
    reader = PreferenceReader([file_source(real_data / "preference" / file)])
    records = list(reader)
    assert list(reader.schemas.values()) == [schema]
    assert len(records) == kept and reader.tally.counts == lost
    if schema == "preference" and kept > 1:
        assert sum(record.margin > 0 for record in records) == 884


@pytest.mark.real_data
def test_the_real_row_of_ultrafeedback_has_its_scores(real_data: Path) -> None:
    import json

    from fulgurite.data.readers.ultrafeedback import completion_score

    row = json.loads((real_data / "preference/ultrafeedback/readme_example_row.jsonl").read_text().splitlines()[0])
    first = row["completions"][0]
    ratings = [int(entry["Rating"]) for entry in first["annotations"].values() if entry["Rating"] != "N/A"]
    assert completion_score(first, "mean")[0] == sum(ratings) / len(ratings)
    assert math.isnan(completion_score(first, "overall")[0])  # the row shows none


def test_scales_and_flags_of_the_schemas() -> None:
    """The widest margin that each schema's scores allow, and which pairs are right against wrong."""
    scales = {schema: getattr(only(row, schema=schema), "scale", None) for schema, (row, _) in SCHEMAS.items()}
    assert scales["ultrafeedback"] == 4 and scales["ultrasafety"] == 1 and scales["chendrag"] == 9
    assert scales["argilla"] in (4, None) and scales["ultrainteract_pair"] is None
    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    scored = only({**pair, "metadata": {"score_chosen": 9.0, "score_rejected": 2.0}}, schema="preference")
    assert scored.margin == 7 and scored.scale == 9 and not scored.direct
    assert only({**pair, "margin": 2.0, "direct": True}, schema="preference").direct
    assert only({**pair, "margin": 2.0}, schema="preference").scale is None


def test_an_answer_rated_outside_its_scale_is_left_out_once_and_counted() -> None:
    def answer(text: str, rating: str) -> dict[str, Any]:
        return {"response": text, "annotations": {"helpfulness": {"Rating": rating}}}

    row = {"instruction": "hi", "completions": [answer("a", "5"), answer("b", "9"), answer("c", "1")]}
    reader = PreferenceReader([list_source("rows", [row])])
    (found,) = list(reader)
    assert found.completions == ("a", "c")  # type: ignore[union-attr]
    assert reader.tally.notes == {"an answer left out: rating outside its scale": 1} and reader.tally.lost == 0
    both = {"instruction": "hi", "completions": [answer("a", "6"), answer("b", "N/A"), answer("c", "3")]}
    reader = PreferenceReader([list_source("rows", [both, row])])
    assert len(list(reader)) == 1 and reader.tally.counts == {"fewer than two answers": 1}


def test_what_a_pair_says_beside_its_dialogues_is_not_passed_over() -> None:
    untrained = [MESSAGES[0], {**MESSAGES[1], "train": False}]
    reader = PreferenceReader([list_source("x", [{"chosen": untrained, "rejected": OTHER}])])
    with pytest.raises(ValueError, match=r"weight of a message.*'chosen' says that it is not trained on"):
        list(reader)
    reader = PreferenceReader([list_source("x", [{"prompt": "nowhere", "chosen": MESSAGES, "rejected": OTHER}])])
    assert len(list(reader)) == 1
    assert any("a prompt that the dialogues do not hold" in line for line in reader.tally.lines())
