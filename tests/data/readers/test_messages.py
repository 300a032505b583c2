"""What a message and a row hold beside their texts: followed, given to the template, named, or left out and counted."""

import json
from typing import Any

import pytest

from fulgurite.data.readers.conversations import ConversationReader, read_row
from fulgurite.data.readers.preferences import PreferenceReader
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.records.findings import Finding
from fulgurite.data.sources.locate import list_source

CALL = [{"type": "function", "function": {"name": "weather", "arguments": "{}"}}]
TOOLS = [{"type": "function", "function": {"name": "weather"}}]


def asked(answer: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", **answer}], **row}


def read(row: dict[str, Any], schema: str = "messages") -> Conversation | Finding:
    (found,) = read_row(schema, row, "chats.jsonl", 4)
    return found


@pytest.mark.parametrize(("key", "value"), [("weight", 0), ("weight", 0.0), ("train", False), ("training", False)])
def test_an_answer_may_say_that_it_is_not_trained_on(key: str, value: object) -> None:
    found = read(asked({"content": "b", key: value}))
    assert isinstance(found, Conversation)
    assert [turn.train for turn in found.turns] == [True, False] and found.turns[1].extra is None
    shared = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", key: value}]}
    given = read(shared, "sharegpt")
    assert isinstance(given, Conversation) and not given.turns[1].train


def test_weights_between_are_refused() -> None:
    found = read(asked({"content": "b", "weight": 0.5}))
    assert isinstance(found, Finding) and found.reason == "weight of a message" and "weight 0.5" in found.detail
    kept = read(asked({"content": "b", "weight": 1, "train": None}))
    assert isinstance(kept, Conversation) and kept.turns[1].train


@pytest.mark.parametrize("content", [{"content": None}, {"content": ""}, {}])
def test_calls_reasoning_and_tools_go_to_the_template(content: dict[str, Any]) -> None:
    row = asked({**content, "tool_calls": CALL, "reasoning_content": "hm", "name": None}, tools=TOOLS)
    row["messages"] += [
        {"role": "tool", "content": "rain", "tool_call_id": "1"},
        {"role": "assistant", "content": "Rain."},
    ]
    for tools in (TOOLS, json.dumps(TOOLS)):
        found = read({**row, "tools": tools})
        assert isinstance(found, Conversation)
        assert json.loads(found.turns[1].extra or "") == {"tool_calls": CALL, "reasoning_content": "hm"}
        assert found.turns[2].extra_keys == ("tool_call_id",) and json.loads(found.tools or "") == TOOLS
    (bad,) = read_row("messages", {**row, "tools": "weather"}, "x", 1)
    assert isinstance(bad, Finding) and bad.reason == "tools"


def test_tools_that_a_schema_does_not_read_leave_the_row_out() -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "c", "output": "d", "tools": TOOLS}]
    reader = ConversationReader([list_source("rows", rows)], "alpaca")
    assert len(list(reader)) == 1 and reader.tally.counts == {"tools that are not read": 1}
    with pytest.raises(ValueError, match="tools that are not read"):
        list(ConversationReader([list_source("rows", rows)], "alpaca", on_bad_row="error"))
    pairs = [{"prompt": "a", "chosen": "b", "rejected": "c", "tools": tools} for tools in (None, TOOLS)]
    told = PreferenceReader([list_source("rows", pairs)])
    assert len(list(told)) == 1 and told.tally.counts == {"tools that are not read": 1}


def test_compared_answers_hold_nothing_but_text() -> None:
    def side(**more: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": "a"}, {"role": "assistant", **more}]

    rows = [
        {"chosen": side(content="b"), "rejected": side(content="c", id="7")},
        {"chosen": side(content="", tool_calls=CALL), "rejected": side(content="c")},
        {"chosen": side(content="d"), "rejected": side(content="e", reasoning_content="hm")},
    ]
    reader = PreferenceReader([list_source("rows", rows)])
    assert len(list(reader)) == 1
    assert reader.tally.counts == {"an answer with tool_calls": 1, "an answer with reasoning_content": 1}


def test_columns_that_a_guess_leaves_out_are_named() -> None:
    rows = [{"messages": asked({"content": "b"})["messages"], "id": 1, "source": "a book of the sea"}]
    reader = ConversationReader([list_source("rows", rows)])
    assert len(list(reader)) == 1
    assert reader.tally.notes == {"columns that schema messages does not read: id, source": 1}


def test_a_guess_that_would_drop_texts_asks_for_the_schema() -> None:
    """MBPP's columns: only the task would be trained on."""
    rows = [{"text": "Write a function.", "code": "def f(x):\n    return x", "test_list": ["assert f(1) == 1"]}]
    with pytest.raises(
        ValueError, match=r"only 'text' would be read, and 'code', 'test_list' hold text too; give schema='text'"
    ):
        list(ConversationReader([list_source("mbpp.jsonl", rows)]))
    (alone,) = ConversationReader([list_source("mbpp.jsonl", rows)], "text")
    assert alone.turns[0].content == "Write a function."
    columns = {"prompt": "text", "completion": "code"}
    (pair,) = ConversationReader([list_source("mbpp.jsonl", rows)], "prompt_completion", columns)
    assert pair.turns[1].content.startswith("def f")
