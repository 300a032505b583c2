"""Built-in preferences: the preferred answer is right, the other wrong, and splits share no question."""

from itertools import pairwise
from typing import Any

import pytest

from fulgurite.data.playground import builtin_rows
from fulgurite.data.playground.draw import split_of
from fulgurite.data.playground.generators import check
from fulgurite.data.playground.rows.preferences import PREFERENCE_ROWS, made_preferences
from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.records.preference import Labelled, Ranked
from fulgurite.data.sources.locate import list_source


def answer(text: str) -> str:
    return text.removeprefix("Once more: ").removeprefix("```python\n").removesuffix("```")


@pytest.mark.parametrize("schema", PREFERENCE_ROWS)
@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_right_against_wrong(schema: str, split: str) -> None:
    made = list(made_preferences(schema, split, count=80))
    reader = PreferenceReader([list_source(schema, [row for row, _ in made])])
    records: list[Any] = list(reader)
    assert len(records) == len(made) == 80 and reader.tally.lost == 0
    assert list(reader.schemas.values()) == ["preference" if schema == "ultrafeedback_binarized" else schema]
    for record, (_, task) in zip(records, made, strict=True):
        assert split_of(task.prompt) == split
        assert record.prompt[0].content.endswith(task.prompt)
        if isinstance(record, Labelled):
            assert check(task, record.completion) == record.desirable
        elif isinstance(record, Ranked):
            for text, score in zip(record.completions, record.scores, strict=True):
                assert check(task, text) == (score == 1)
        else:
            assert check(task, answer(record.chosen)) and not check(task, answer(record.rejected))
    assert builtin_rows(schema, split, count=10) == [row for row, _ in made[:10]]
    assert builtin_rows(schema, split, seed=1, count=10) != [row for row, _ in made[:10]]


def test_trees_go_on_after_the_wrong_action() -> None:
    rows = builtin_rows("ultrainteract_pair", "train", count=300)
    depths = set()
    for before, row in pairwise(rows):
        turn = (len(row["trajectory"]) + 1) // 2
        depths.add(turn)
        assert len(row["trajectory"]) == 2 * turn - 1 and row["id"].endswith(f"_{turn}")
        if turn > 1:
            assert row["parent_id"] == before["parent_id"]
            assert row["trajectory"][:-1] == [*before["trajectory"], {"from": "assistant", "value": before["rejected"]}]
            assert row["trajectory"][-1]["value"].endswith("Your answer is wrong.")
    assert depths == {1, 2, 3, 4, 5}


def test_an_unknown_split() -> None:
    with pytest.raises(ValueError, match="split 'dev'"):
        builtin_rows("unpaired", "dev")
