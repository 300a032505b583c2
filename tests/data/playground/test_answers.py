"""Built-in rows with answers: published columns, splits that share no input, answers that the checker accepts."""

from __future__ import annotations

import pytest

from fulgurite.data.playground import builtin_rows, check_answer
from fulgurite.data.playground.rows.answers import ANSWER_SPLITS

COLUMNS = {
    "rotten_tomatoes": ["text", "label"],
    "imdb": ["text", "label"],
    "nq_open": ["question", "answer"],
    "samsum": ["dialogue", "summary"],
    "multi_news": ["document", "summary"],
}


@pytest.mark.parametrize("schema", COLUMNS)
def test_rows_have_the_published_columns_and_no_input_twice(schema):
    seen: set[str] = set()
    for split in ANSWER_SPLITS[schema]:
        rows = builtin_rows(schema, split, count=300)
        assert len(rows) == 300 and all(list(row) == COLUMNS[schema] for row in rows)
        texts = {next(iter(row.values())) for row in rows}
        assert len(texts) == 300 and (schema in ("rotten_tomatoes", "imdb") or not texts & seen)
        seen |= texts
    assert builtin_rows(schema, "train", count=5) == builtin_rows(schema, "train", count=300)[:5]


def test_a_wrong_split_is_refused():
    with pytest.raises(ValueError, match="allowed are train, test"):
        builtin_rows("imdb", "validation")


def test_sums_are_right_and_the_checker_can_say_no():
    for row in builtin_rows("nq_open", "train", count=400):
        words = row["question"].replace("what is ", "").replace("how much is ", "").split()
        if words[0].isdigit():
            first, second = int(words[0]), int(words[2])
            value = {"plus": first + second, "minus": first - second, "times": first * second}[words[1]]
            assert row["answer"][0] == str(value)
            assert not check_answer(row, str(value + 1)) and not check_answer(row, str(-value or 1))
        assert all(check_answer(row, f"The {text}.") for text in row["answer"])


@pytest.mark.parametrize("schema", ["samsum", "multi_news"])
def test_the_summary_is_told_in_the_text(schema):
    for row in builtin_rows(schema, "train", count=100):
        text, summary = row[COLUMNS[schema][0]], row["summary"]
        assert check_answer(row, summary.upper()) and not check_answer(row, summary + " Twice.")
        assert summary.split()[0].lower() in text.lower()
