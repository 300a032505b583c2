"""Rows of scored answers: which ones there are, what is left out, and that the readers take them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fulgurite.data.readers.conversations import read_row
from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.records.conversation import Conversation, Turn
from fulgurite.data.records.preference import Preference
from fulgurite.data.sources.row_files import RowFiles
from fulgurite.evaluation.selection.candidates import Candidates
from fulgurite.evaluation.selection.training_rows import TrainingRows, training_rows, write_rows

CHAT = (Turn("system", "Be short."), Turn("user", "Name a river."))


def test_the_best_become_targets_and_the_worst_is_rejected() -> None:
    own = Candidates("1", CHAT, ("Nile", "a stone", "Danube", "Nile"), ("stop",) * 4)
    found = training_rows([own], [[2.0, -1.0, 3.0, 9.0]], top=2)
    # The second Nile is the same text as the first: its reward is the first one's.
    assert [row["messages"][-1]["content"] for row in found.sft] == ["Danube", "Nile"]
    assert [turn["role"] for turn in found.sft[0]["messages"]] == ["system", "user", "assistant"]
    (pair,) = found.pairs
    assert pair["chosen"][-1]["content"] == "Danube" and pair["rejected"][-1]["content"] == "a stone"
    assert pair["chosen"][:-1] == pair["prompt"] == pair["rejected"][:-1] and pair["margin"] == 4.0
    assert found.left_out == {}


def test_what_may_not_be_trained_on_is_left_out_and_counted() -> None:
    cut = Candidates("1", CHAT, ("a long", "short", " ", "fine"), ("length", "stop", "stop", "stop"))
    equal = Candidates("2", CHAT, ("x", "y"), ("stop", "stop"))
    alone = Candidates("3", CHAT, ("x", "x"))
    found = training_rows([cut, equal, alone], [[9.0, 1.0, None, None], [1.0, 1.0], [1.0, 2.0]])
    assert [row["messages"][-1]["content"] for row in found.sft] == ["short", "x", "x"] and found.pairs == []
    assert found.left_out == {
        "answers that were cut off": 1,
        "empty answers": 1,
        "answers without a reward or a verdict": 1,
        "prompts without two different answers": 2,
        "prompts whose answers are all equally good, as pairs": 1,
    }
    with pytest.raises(ValueError, match="top=0"):
        training_rows([cut], [[None] * 4], top=0)


def test_a_wrong_answer_is_no_target_however_high_its_reward() -> None:
    mixed = Candidates("1", CHAT, ("wrong", "right", "right too", "wrong too"), correct=[0.0, 1.0, 1.0, 0.0])
    wrong = Candidates("2", CHAT, ("w", "v"), correct=[0.0, 0.0])
    unknown = Candidates("3", CHAT, ("u", "r"), correct=[None, 1.0])
    found = training_rows([mixed, wrong, unknown], [[9.0, 1.0, 2.0, -1.0], [5.0, 4.0], [7.0, 1.0]], top=5)
    assert [row["messages"][-1]["content"] for row in found.sft] == ["right too", "right", "r"]
    (pair,) = found.pairs
    assert (pair["chosen"][-1]["content"], pair["rejected"][-1]["content"]) == ("right too", "wrong too")
    assert found.left_out["prompts without a right answer"] == 1
    assert found.left_out["answers without a reward or a verdict"] == 1
    by_checker = training_rows([mixed, wrong], [mixed.correct, wrong.correct])
    assert [row["messages"][-1]["content"] for row in by_checker.sft] == ["right"] and len(by_checker.pairs) == 1


def read_pairs(rows: TrainingRows, file: Path) -> list[Preference]:
    write_rows(file, rows.pairs)
    sources = RowFiles(str(file), owner="test", builtin="preference", val_fraction=0.0, use="prefs").split("train")
    return [
        record for record in PreferenceReader(sources.sources, on_bad_row="error") if isinstance(record, Preference)
    ]


@pytest.mark.parametrize("prompt", [CHAT, (Turn("prompt", "Question: 2 + 3?\nAnswer:"),)], ids=["chat", "text"])
def test_the_readers_take_the_rows(prompt: tuple[Turn, ...], tmp_path: Path) -> None:
    found = training_rows([Candidates("1", prompt, (" 5", " 6"), ("stop", "stop"))], [[1.5, -1.0]])
    (conversation,) = _read_sft(found.sft[0])
    last = "assistant" if prompt is CHAT else "completion"
    assert conversation.turns == (*prompt, Turn(last, " 5"))
    (pair,) = read_pairs(found, tmp_path / "pairs.jsonl")
    assert (pair.prompt, pair.chosen, pair.rejected, pair.margin) == (prompt, " 5", " 6", 2.5)
    with pytest.raises(ValueError, match="no row is left to write"):
        write_rows(tmp_path / "none.jsonl", [])


def _read_sft(row: dict) -> list[Conversation]:  # type: ignore[type-arg]
    schema = "messages" if "messages" in row else "prompt_completion"
    return [each for each in read_row(schema, json.loads(json.dumps(row)), "rows", 1) if isinstance(each, Conversation)]
