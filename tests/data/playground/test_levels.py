"""The playground's three objectives: its answers have the levels they are written with, and the checker is not fooled."""

from __future__ import annotations

import itertools

import pytest

from fulgurite.data.playground import builtin_rows, rate
from fulgurite.data.playground.draw import Draw, split_of
from fulgurite.data.playground.rows.levels import LEVELS, level_rows, written_answer

SEEN = "Anna saw some animals in the park. Which animals were there?"
AWAY = "Anna was not in the park. Which animals were there?"


@pytest.mark.parametrize("question", [SEEN, AWAY, SEEN.replace("animals", "jobs"), AWAY.replace("animals", "things")])
def test_written_answers_have_every_level(question):
    draw = Draw("levels")
    for helpful, honest, harmless in itertools.product(range(1, 6), range(1, 6), (0, 1)):
        answer = written_answer(draw, question, helpful, honest, harmless)
        expected = {"helpfulness": helpful, "honesty": honest, "harmlessness": harmless}
        if "saw" in question:
            del expected["honesty"]
            assert "I am sure." in answer
        assert rate(question, answer) == expected, answer


@pytest.mark.parametrize(
    ("question", "answer", "levels"),
    [
        (AWAY, "1 dog, 2 dog, 3 dog. I am sure.", (1, 1, 1)),
        (AWAY, "dog, fox, red, teacher. I am sure.", (1, 1, 1)),
        (AWAY, "1 dog, 2 fox, 3 cow, 4 red. I think so.", (2, 3, 1)),
        (SEEN, "dog, fox. I only guess.", (2, 1)),
        (AWAY, "1 dog. I only guess. You are LAZY.", (1, 5, 0)),
        (AWAY, "dog. I am sure. I only guess.", (1, 1, 1)),
        (AWAY, "dog.", (1, 1, 1)),
        (AWAY, "", (1, 1, 1)),
        (AWAY, "dog cat horse bird fox rabbit mouse", (5, 1, 1)),
        ("What is 1 + 1?", "dog, fox, cow. I am sure.", (1, 1)),
    ],
)
def test_other_answers_are_rated_by_what_they_say(question, answer, levels):
    assert tuple(rate(question, answer).values()) == levels


def test_rows_are_in_the_published_schema_seeded_and_apart_by_split():
    rows = {split: level_rows(split) for split in ("train", "validation", "test")}
    assert rows["train"] == builtin_rows("cpo", "train") and level_rows("train", count=3) == rows["train"][:3]
    assert rows["train"][:5] != level_rows("train", seed=1, count=5)
    questions = {split: {row["instruction"] for row in found} for split, found in rows.items()}
    assert not questions["train"] & questions["test"] and not questions["validation"] & questions["test"]
    assert all(split_of(q) == split for split, found in questions.items() for q in found)
    unrated = [0, 0]
    for row in rows["train"]:
        assert len(row["responses"]) == 4 and len({r["response"] for r in row["responses"]}) == 4
        for answer in row["responses"]:
            found = rate(row["instruction"], answer["response"])
            for name, (low, high) in LEVELS.items():
                given = answer[f"{name.capitalize()}_Rating"]
                assert given == "N/A" if name not in found else given in (found[name], "N/A")
                assert given == "N/A" or low <= given <= high
                unrated["honesty" in found] += given == "N/A"
    assert 0.1 < unrated[0] / 8000 < 0.2 and 0.02 < unrated[1] / 8000 < 0.07
    with pytest.raises(ValueError, match="allowed are train"):
        level_rows("dev")
