"""What every reward has to be: finite, one for each answer, none for an empty one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.selection.scorers import Asked, as_read, rewards_of

__all__ = ["ASKED"]

ASKED = [
    Asked((Turn("user", "What is 2 + 3?"),), "5", "row 1"),
    Asked((Turn("user", "Is it red? Say so."),), "yes, it is red", "row 2"),
    Asked((Turn("system", "Be short."), Turn("user", "x")), "no", "row 3"),
]


class Given:
    """A scorer that gives what it was made with."""

    name = "the model"

    def __init__(self, rewards: list[float | None]) -> None:
        self.rewards, self.omitted, self.seen = rewards, Counter[str](), 0
        self.example: str | None = None

    def identity(self) -> dict[str, Any]:
        return {}

    def score(self, asked: Sequence[Asked]) -> list[float | None]:
        self.seen += len(asked)
        return self.rewards


def test_rewards_that_are_none_are_refused_by_name() -> None:
    assert rewards_of(Given([1.0, None, -2.0]), ASKED) == [1.0, None, -2.0]
    for bad in (math.nan, math.inf):
        with pytest.raises(
            ValueError, match=r"row 2: the model gives the answer 'yes, it is red' the reward (nan|inf)"
        ):
            rewards_of(Given([1.0, bad, 0.0]), ASKED)
    with pytest.raises(ValueError, match="the model: 2 rewards for 3 answers"):
        rewards_of(Given([1.0, 2.0]), ASKED)


def test_empty_answers_are_not_shown_to_a_scorer() -> None:
    scorer = Given([4.0])
    asked = [ASKED[0]._replace(text=" \n"), ASKED[1], ASKED[0]._replace(text="")]
    assert rewards_of(scorer, asked) == [None, 4.0, None]
    assert scorer.seen == 1 and scorer.omitted == {"empty answer": 2}
    nothing = Given([])
    assert rewards_of(nothing, [asked[0]]) == [None] and nothing.seen == 0


def test_a_model_reads_answers_as_it_was_trained() -> None:
    asked = Turn("user", "What is 2 + 3?")
    plain = (Turn("prompt", "What is 2 + 3?"), Turn("completion", "5"))
    for turns in ((asked,), (Turn("prompt", "What is 2 + 3?"),)):
        assert as_read(turns, "5", False, "here").turns == plain
        assert as_read(turns, "5", True, "here").turns == (asked, Turn("assistant", "5"))
