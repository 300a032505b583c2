"""Rows of both stages: tokens in front, the answers' own ratings in CPSFT, order by g with ties counted in CDPO."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fulgurite.data.conditions.objectives import Objectives
from fulgurite.data.conditions.reader import RatedReader
from fulgurite.data.conditions.rows import Conditioned, Conditioning, tag_objectives
from fulgurite.data.playground.rows.levels import level_rows
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.sources.locate import list_source
from fulgurite.data.trees.comparisons import compare

TWO = Objectives({"helpfulness": [1, 5], "honesty": [1, 5]})
HOW = Conditioning(TWO, {"helpfulness": 1.0, "honesty": 1.0}, {"helpfulness": 1.0, "honesty": 1.0})


def made(rows, stage, how=HOW, **options):
    reader = Conditioned(RatedReader([list_source("rows", rows)], how.objectives, **options), how, stage)
    return list(reader), reader


def row(*ratings, instruction="Explain tides."):
    names = ("Helpfulness_Rating", "Honesty_Rating")
    return {
        "instruction": instruction,
        "responses": [
            {"response": f"answer {i}", **{n: r for n, r in zip(names, pair, strict=True) if r is not None}}
            for i, pair in enumerate(ratings)
        ],
    }


def test_cpsft_conditions_are_the_answers_own_ratings():
    found, reader = made([row((5, 3), (2, None))], "cpsft", replace(HOW, control="all"))
    assert [[t.content for t in c.turns] for c in found] == [
        ["<helpfulness:5> <honesty:3> Explain tides.", "answer 0"],
        ["<helpfulness:2> Explain tides.", "answer 1"],
    ]
    assert [c.tag for c in found] == ["helpfulness+honesty", "helpfulness"]
    assert {c.key for c in found} == {"Explain tides."}, "one instruction is one group, whatever its tokens"
    assert reader.tally.kept == 2
    plain, _ = made([row((5, 3), (2, None))], "cpsft", replace(HOW, control="none"))
    assert [c.turns[0].content for c in plain] == ["Explain tides."] * 2
    assert [c.tag for c in plain] == ["none"] * 2


def test_cpsft_subsets_of_real_rows_agree_with_the_ratings():
    rows = level_rows("train", count=80)
    objectives = Objectives({"helpfulness": [1, 5], "honesty": [1, 5], "harmlessness": [0, 1]})
    ones = dict.fromkeys(objectives, 1.0)
    found, reader = made(rows, "cpsft", Conditioning(objectives, ones, ones, per_row=2))
    ratings = {(r["instruction"], a["response"]): a for r in rows for a in r["responses"]}
    for conversation in found:
        assert isinstance(conversation, Conversation)
        condition, instruction = objectives.apart(conversation.turns[0].content)
        answer = ratings[instruction, conversation.turns[1].content]
        assert all(answer[f"{name.capitalize()}_Rating"] == level for name, level in condition.items())
    assert len({c.tag for c in found}) == 8
    assert tag_objectives([c.tag for c in found]) == set(objectives)
    assert len(found) > 1.5 * 320 and reader.tally.kept == len(found)
    again, _ = made(rows, "cpsft", Conditioning(objectives, ones, ones, per_row=2))
    assert again == found


@pytest.mark.parametrize(
    ("typed", "doubled"),
    [("helpfulness=3", [0, 1, 3, 0]), ("helpfulness=1", [2, -1, 1, -2]), ("none", [3, 8, 6, 7])],
)
def test_cdpo_pairs_are_ordered_by_g(typed, doubled):
    """Of two objectives with ω 1/2: twice g is −|p − c| of the controlled one plus the free one."""
    rows = [row((1, 2), (5, 3), (3, 3), (5, 2))]
    condition = TWO.parse(typed)
    how = replace(HOW, buckets=((condition, 6),))
    (ranked,), _ = made(rows, "cdpo", how)
    assert ranked.prompt[0].content == TWO.prefix(condition) + "Explain tides."
    assert [2 * score for score in ranked.scores] == doubled
    comparison = compare(ranked, "pairs")
    assert len(comparison.pairs) == (5 if typed == "helpfulness=3" else 6)
    for chosen, rejected, margin in comparison.pairs:
        assert 2 * margin == doubled[chosen] - doubled[rejected] > 0


def test_cdpo_drops_ties_and_counts_them():
    how = replace(HOW, control="none")
    (ranked,), reader = made([row((1, 3), (3, 1), (2, 2), (5, 5))], "cdpo", how)
    assert len(compare(ranked, "pairs").pairs) == 3
    assert reader.tally.notes == {"a pair left out: tied under its condition": 3}


def test_cdpo_compares_over_what_all_are_rated_for_and_counts_what_it_leaves_out():
    how = replace(HOW, buckets=(({"honesty": None}, 10),))
    found, reader = made([row((1, 5), (None, 3), (4, None), (2, 1))], "cdpo", how)
    assert found[0].completions == ("answer 0", "answer 1", "answer 3")
    ((condition, _),) = [TWO.apart(found[0].prompt[0].content)]
    assert [2 * s for s in found[0].scores] == [-abs(p - condition["honesty"]) for p in (5, 3, 1)]
    assert reader.tally.notes["an answer left out: a controlled objective is not rated"] == 1
    assert reader.tally.notes["a free objective left out: not every answer is rated for it"] == 1


def test_cdpo_needs_two_comparable_answers():
    how = replace(HOW, control="all")
    rows = [row((1, 2)), row((3, 3), (2, 2))]
    found, reader = made(rows, "cdpo", how)
    assert len(found) == 1 and reader.tally.counts == {"fewer than two comparable answers": 1}
    with pytest.raises(
        ValueError, match="row 1: fewer than two comparable answers: 1 under <helpfulness:1> <honesty:2>"
    ):
        made(rows, "cdpo", how, on_bad_row="error")


def test_reading_twice_gives_the_same_rows_and_counts():
    rows = level_rows("train", count=60)
    objectives = Objectives({"helpfulness": [1, 5], "honesty": [1, 5], "harmlessness": [0, 1]})
    ones = dict.fromkeys(objectives, 1.0)
    buckets = (({"helpfulness": None}, 100), ({}, 100), ({"harmlessness": 0.0}, 60))
    reader = Conditioned(
        RatedReader([list_source("rows", rows)], objectives),
        Conditioning(objectives, ones, ones, buckets=buckets),
        "cdpo",
    )
    first, counts = list(reader), dict(reader.tally.notes)
    assert list(reader) == first and reader.tally.notes == counts and reader.tally.kept == len(first)
    sizes = {tag: sum(len(compare(r, "pairs").pairs) for r in first if r.tag == tag) for tag in {r.tag for r in first}}
    for tag, wanted in (("helpfulness", 100), ("none", 100), ("harmlessness", 60)):
        assert wanted <= sizes[tag] < wanted + 6, "full, by the last row's pairs at most over"
