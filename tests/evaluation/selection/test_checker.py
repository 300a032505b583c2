"""A task's checker as a scorer."""

from __future__ import annotations

import pytest

from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.selection.checker import CheckerReward
from fulgurite.evaluation.selection.scorers import Asked, rewards_of
from fulgurite.evaluation.tasks import find_tasks


def test_a_checker_says_what_is_right() -> None:
    (task,) = find_tasks(["gsm8k"])
    item = task.item({"question": "2 + 3?", "answer": "It is\n#### 5"}, 1)
    scorer = CheckerReward(task)
    asked = [
        Asked((Turn("user", "2 + 3?"),), text, "row 1", item) for text in ("#### 5", "it is 6", "no number", "5.0")
    ]
    assert rewards_of(scorer, asked) == [1.0, 0.0, 0.0, 1.0]
    assert scorer.identity()["task"] == "gsm8k" and scorer.name == "task:gsm8k"
    with pytest.raises(ValueError, match="row 1: task:gsm8k needs the row's right answer"):
        rewards_of(scorer, [asked[0]._replace(item=None)])
    with pytest.raises(ValueError, match="piqa compares log-likelihoods"):
        CheckerReward(find_tasks(["piqa"])[0])
