"""Every published schema becomes conversations, and every bad row is named by file, line and reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.playground import builtin_rows
from fulgurite.data.readers.conversations import CONVERSATION_SCHEMAS, ConversationReader, read_row
from fulgurite.data.readers.critiques import CRITIQUE_PROMPT, CRITIQUE_SYSTEM
from fulgurite.data.records.conversation import Conversation
from fulgurite.data.records.findings import Finding
from fulgurite.data.sources.locate import file_source, list_source

U, A, S = "user", "assistant", "system"


def judged(**more: Any) -> dict[str, Any]:
    given = {"response": "r", "critique": "c", "overall_score": 7.0, "fine-grained_score": 3.5}
    return {"instruction": "i", "completions": [{**given, **more}]}


def critique_turns(score: str) -> list[tuple[str, str]]:
    request = CRITIQUE_PROMPT.replace("{instruction}", "i").replace("{answer}", "r")
    return [(S, CRITIQUE_SYSTEM), (U, request), (A, f"### Feedback\nc\nOverall Score: {score}")]


GOOD = [
    ("ultrainteract_sft", {"instruction": "i", "response": "r", "task": "Coding"}, [(U, "i"), (A, "r")], "Coding"),
    ("ultrachat", {"id": "0", "data": ["a", "b", "c", "d"]}, [(U, "a"), (A, "b"), (U, "c"), (A, "d")], None),
    (
        "ultrachat_200k",
        {"prompt": "a", "prompt_id": "x", "messages": [{"content": "a", "role": U}, {"content": "b", "role": A}]},
        [(U, "a"), (A, "b")],
        None,
    ),
    ("ultralink", {"id": "fr_chat_specific_7", "data": ["a", "b"]}, [(U, "a"), (A, "b")], "fr"),
    ("ultralink", {"id": "zh_math_0", "data": ["a", "b"]}, [(U, "a"), (A, "b")], "zh"),
    ("ultrafeedback_critique", judged(), critique_turns("7"), None),
    ("ultrafeedback_critique", judged(overall_score=8.5), critique_turns("8.5"), None),
    ("ultrafeedback_critique", judged(overall_score=10.0, **{"fine-grained_score": 4.5}), critique_turns("10"), None),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "system", "value": ""},
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
            ]
        },
        [(S, ""), (U, "a"), (A, "b")],
        None,
    ),
    (
        "sharegpt",
        {"system": "s", "conversations": [{"from": "user", "value": "a"}, {"from": "assistant", "value": "b"}]},
        [(S, "s"), (U, "a"), (A, "b")],
        None,
    ),
    (
        "messages",
        {"messages": [{"role": U, "content": " a "}, {"role": A, "content": "\nb"}]},
        [(U, " a "), (A, "\nb")],
        None,
    ),
    ("alpaca", {"instruction": "i", "input": "", "output": "o"}, [(U, "i"), (A, "o")], None),
    ("alpaca", {"instruction": "i", "input": "x", "output": "o"}, [(U, "i\n\nx"), (A, "o")], None),
    (
        "alpaca",
        {"instruction": "i", "input": None, "output": "o", "system": "s", "history": [["q", "a"]]},
        [(S, "s"), (U, "q"), (A, "a"), (U, "i"), (A, "o")],
        None,
    ),
    ("dolly", {"instruction": "i", "context": "c", "response": "r", "category": "qa"}, [(U, "i\n\nc"), (A, "r")], None),
    ("prompt_completion", {"prompt": "", "completion": " c"}, [("prompt", ""), ("completion", " c")], None),
    (
        "prompt_completion",
        {"prompt": [{"role": U, "content": "a"}], "completion": [{"role": A, "content": "b"}]},
        [(U, "a"), (A, "b")],
        None,
    ),
    ("text", {"text": "t"}, [("text", "t")], None),
]


@pytest.mark.parametrize(("schema", "row", "turns", "tag"), GOOD)
@pytest.mark.parametrize("how", ["named", "auto"])
def test_schemas(schema: str, row: dict[str, Any], turns: list[tuple[str, str]], tag: str | None, how: str) -> None:
    reader = ConversationReader([list_source("rows", [row])], schema if how == "named" else "auto")
    (found,) = reader
    assert [(turn.role, turn.content) for turn in found.turns] == turns
    assert (found.tag, found.where, reader.schemas) == (tag, "rows, row 1", {"rows": schema})
    unread = {"columns that schema dolly does not read: category": 1} if (schema, how) == ("dolly", "auto") else {}
    assert (reader.tally.rows, reader.tally.kept, reader.tally.lost, reader.tally.notes) == (1, 1, 0, unread)


def test_every_schema_is_tested_and_every_builtin_row_is_read() -> None:
    assert {case[0] for case in GOOD} == set(CONVERSATION_SCHEMAS)
    for schema in ("ultrainteract_sft", "ultrachat", "ultrachat_200k", "ultralink", "sharegpt", "alpaca", "text"):
        reader = ConversationReader([list_source("rows", builtin_rows(schema, "validation", count=50))])
        assert len(list(reader)) == 50 and reader.tally.lost == 0
        assert reader.schemas == {"rows": schema}
    reader = ConversationReader([list_source("rows", builtin_rows("ultrafeedback", "test", count=20))])
    assert len(list(reader)) == 80 and reader.schemas == {"rows": "ultrafeedback_critique"}


BAD = [
    ("messages", {"messages": [{"role": U, "content": "a"}]}, "no assistant turn"),
    ("messages", {"messages": []}, "no assistant turn"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": A, "content": " \n"}]}, "empty answer"),
    ("messages", {"messages": [{"role": U, "content": ""}, {"role": A, "content": "b"}]}, "empty question"),
    ("messages", {"messages": [{"role": A, "content": "b"}, {"role": U, "content": "a"}]}, "roles out of order"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": S, "content": "s"}, {"role": A, "content": "b"}]},
     "roles out of order"),
    ("messages", {"messages": [{"role": U, "content": "a"}] * 2 + [{"role": A, "content": "b"}]}, "roles out of order"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": "tool", "content": "b"}]}, "no assistant turn"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": "critic", "content": "b"}]}, "unknown role"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": None, "content": "b"}]}, "unknown role"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": A, "content": 7}]}, "not a string"),
    ("messages", {"messages": [{"role": U, "content": "a"}, {"role": A, "content": "\ud83d"}]}, "broken Unicode"),
    ("messages", {"messages": [{"role": U}]}, "missing column"),
    ("messages", {"messages": ["a"]}, "not a message"),
    ("messages", {"messages": None}, "not a list"),
    ("ultrachat", {"id": "0", "data": "a"}, "not a list"),
    ("ultrachat", {"id": "0"}, "missing column"),
    ("ultrainteract_sft", {"instruction": "i", "response": None}, "not a string"),
    ("alpaca", {"instruction": "i", "output": "o", "history": ["ab"]}, "not a list"),
    ("alpaca", {"instruction": "i", "output": "o", "history": 3}, "not a list"),
    ("alpaca", {"instruction": "i", "output": "o", "history": {"a": "b"}}, "not a list"),
    ("alpaca", {"instruction": "i", "input": 7, "output": "o"}, "not a string"),
    ("prompt_completion", {"prompt": [], "completion": "c"}, "not a string"),
    ("prompt_completion", {"prompt": "p", "completion": ""}, "empty answer"),
    ("text", {"text": "  "}, "empty text"),
    ("ultrafeedback_critique", judged(critique=" "), "empty critique"),
    ("ultrafeedback_critique", judged(response=""), "empty answer"),
    ("ultrafeedback_critique", judged(overall_score="N/A"), "no overall score"),
    ("ultrafeedback_critique", judged(overall_score=0.5), "no overall score"),
    ("ultrafeedback_critique", judged(critique=None), "missing column"),
    ("ultrafeedback_critique", {"instruction": "i", "completions": []}, "no completion"),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "row", "reason"), BAD)
def test_bad_rows(schema: str, row: dict[str, Any], reason: str) -> None:
    (found,) = read_row(schema, row, "a.jsonl", 7)
    assert isinstance(found, Finding) and found.lost
    assert (found.where, found.reason) == ("a.jsonl, line 7", reason) and found.detail


def test_a_last_question_without_an_answer_is_dropped_and_told() -> None:
    reader = ConversationReader([list_source("rows", [{"id": "1", "data": ["a", "b", "c"]}])])
    (found,) = reader
    assert [turn.content for turn in found.turns] == ["a", "b"]
    assert reader.tally.notes == {"last question unanswered": 1} and reader.tally.lost == 0
    assert "rows, row 1" in reader.tally.lines()[0]


@pytest.mark.parametrize(
    ("completion", "score"),
    [
        ({"overall_score": 10.0, "fine-grained_score": 2.0}, "1"),
        ({"overall_score": 10.0, "fine-grained_score": 2.25}, "10"),
        ({"overall_score": 9.0, "fine-grained_score": 1.0}, "9"),
        ({"overall_score": "10", "fine-grained_score": None, "annotations": {
            "honesty": {"Rating": "N/A"}, "helpfulness": {"Rating": "1"}, "truthfulness": {"Rating": "2"}}}, "1"),
        ({"overall_score": 10, "fine-grained_score": None, "annotations": {"honesty": {"Rating": "N/A"}}}, "10"),
    ],
)  # fmt: skip
def test_overall_scores_that_were_multiplied_by_ten(completion: dict[str, Any], score: str) -> None:
    found = list(read_row("ultrafeedback_critique", judged(**completion), "rows", 1))
    (conversation,) = [item for item in found if isinstance(item, Conversation)]
    assert conversation.turns[-1].content.endswith(f"Overall Score: {score}")
    assert len(found) == (2 if score == "1" else 1)


def test_critiques_with_another_request_and_braces_in_the_texts() -> None:
    row = {
        "instruction": "{answer}",
        "completions": [{"response": "{instruction}", "critique": "c", "overall_score": 3}],
    }
    (found,) = ConversationReader([list_source("rows", [row])], critique_prompt="I {instruction} A {answer}!")
    assert found.turns[1].content == "I {answer} A {instruction}!"
    with pytest.raises(ValueError, match=r"the prompt lacks \{answer\}"):
        ConversationReader([], critique_prompt="{instruction}")


def test_rows_of_one_question_are_one_group() -> None:
    rows = builtin_rows("ultrafeedback", "train", count=3)
    found = list(ConversationReader([list_source("rows", rows)]))
    assert [item.key for item in found] == [row["instruction"] for row in rows for _ in range(4)]
    rows = [{"instruction": i, "response": "r", "parent_id": p} for i, p in (("a", "x"), ("b", "x"), ("a", ""))]
    assert [item.key for item in ConversationReader([list_source("rows", rows)])] == ["x", "x", "a"]


def test_counts_examples_and_the_error_where_every_row_is_bad(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"messages": [{"role": U, "content": "a"}]}] * 5 + [{"messages": 7}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"none of 6 rows of .*a\.jsonl is a conversation") as error:
        list(ConversationReader([file_source(path)]))
    text = str(error.value)
    assert "5 left out, no assistant turn" in text and "a.jsonl, line 1" in text and "line 3" in text
    assert "line 4" not in text and "1 left out, not a list: " in text
    with pytest.raises(ValueError, match=r"a\.jsonl, line 1: no assistant turn: the roles are user; correct the row"):
        list(ConversationReader([file_source(path)], on_bad_row="error"))
    path.write_text(
        path.read_text() + json.dumps({"messages": [{"role": U, "content": "a"}, {"role": A, "content": "b"}]})
    )
    reader = ConversationReader([file_source(path)])
    assert [item.row for item in reader] == [7]
    assert (reader.tally.rows, reader.tally.kept, reader.tally.lost) == (7, 1, 6)


def test_renamed_columns() -> None:
    rows = [{"question": "a", "answer": "b", "text": "c"}]
    columns = {"prompt": "question", "completion": "answer"}
    (found,) = ConversationReader([list_source("rows", rows)], "auto", columns)
    assert [turn.content for turn in found.turns] == ["a", "b"]
    with pytest.raises(ValueError, match=r"columns renames 'question'; the schemas' columns are completion, "):
        ConversationReader([], columns={"question": "prompt"})


def test_a_renamed_column_that_no_row_has_is_an_error() -> None:
    rows = [{"question": "a", "prompt": "wrong", "completion": "b"}]
    source = list_source("rows", rows)
    with pytest.raises(
        ValueError, match=r"columns names 'qestion', which no row of rows has; .*Did you mean 'question'"
    ):
        list(ConversationReader([source], columns={"prompt": "qestion"}))
    # A column that stands in one of the sources, or in a late row, is one.
    late = list_source("late", [{"prompt": "a", "completion": "b"}] * 60 + rows)
    reader = ConversationReader([list_source("other", [{"text": "t"}]), late], columns={"prompt": "question"})
    assert [item.turns[0].content for item in reader] == ["t", *["a"] * 61]


def test_columns_that_fit_no_schema_are_listed_with_those_that_would() -> None:
    source = list_source("rows", [{"Instruction": "a", "answer": "b"}])
    with pytest.raises(ValueError, match=r"rows: the columns 'Instruction', 'answer' fit no schema") as error:
        list(ConversationReader([source]))
    assert all(schema in str(error.value) for schema in CONVERSATION_SCHEMAS)
    with pytest.raises(
        ValueError,
        match=r"no column 'instruction', 'output', which schema 'alpaca' needs; found 'Instruction', 'answer'",
    ):
        list(ConversationReader([source], "alpaca"))
    with pytest.raises(ValueError, match=r"schema 'alpacca'; allowed are auto, .*did you mean 'alpaca'\?"):
        ConversationReader([source], "alpacca")


def test_a_row_without_the_column_among_others() -> None:
    rows = [{"instruction": "a", "output": "b"}, {"instruction": "a"}]
    reader = ConversationReader([list_source("rows", rows)])
    assert len(list(reader)) == 1
    assert reader.tally.lines() == ["1 left out, missing column: rows, row 2: no 'output'; found 'instruction'"]


def test_tags_of_files_and_of_languages(tmp_path: Path) -> None:
    for name in ("en_math.jsonl", "fr_code.jsonl"):
        (tmp_path / name).write_text(json.dumps({"id": "0", "data": ["a", "b"]}) + "\n")
    sources = [file_source(tmp_path / name) for name in ("en_math.jsonl", "fr_code.jsonl")]
    assert [item.tag for item in ConversationReader(sources)] == ["en", "fr"]
    assert [item.tag for item in ConversationReader(sources, tags=["fr"])] == ["fr"]
    texts = [list_source(f"folder/{name}.jsonl", [{"text": "a"}]) for name in ("x", "y")]
    assert [item.tag for item in ConversationReader(texts, tag_sources=True)] == ["x", "y"]
    mixed = ConversationReader([sources[0], texts[0]], tags=["en"])
    assert len(list(mixed)) == 1 and mixed.tally.counts == {"no tag": 1}


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("path", "schema", "count"),
    [
        ("sft/alpaca/alpaca_en_demo.json", "alpaca", 999),
        ("sft/alpaca/alpaca_tiny.json", "alpaca", 100),
        ("sft/alpaca/alpaca_zh_demo.head-200.json", "alpaca", 200),
        ("sft/litgpt/dolly.json", "dolly", 12),
        ("sft/ultralink/readme_example_rows.jsonl", "ultralink", 4),
        ("sft/ultrachat/readme_example_row.jsonl", "ultrachat", 1),
        ("sft/ultrainteract/readme_example_rows.jsonl", "ultrainteract_sft", 3),
        ("preference/llamafactory/kto_en_demo.json", "messages", 300),
        ("text/c4/c4_demo.jsonl", "text", 300),
    ],
)
def test_real_rows(real_data: Path, path: str, schema: str, count: int) -> None:
    reader = ConversationReader([file_source(real_data / path)])
    found = list(reader)
    assert list(reader.schemas.values()) == [schema]
    assert reader.tally.rows == count and len(found) + reader.tally.lost == count
    assert reader.tally.lost <= count // 100
    if schema == "ultralink":
        assert [item.tag for item in found] == ["zh", "fr", "ru", "es"]
    if schema == "ultrainteract_sft":
        assert found[0].tag == "Coding" and found[0].group
    if schema == "ultrachat":  # seven texts: the last question has no answer
        assert len(found[0].turns) == 6 and reader.tally.notes == {"last question unanswered": 1}


@pytest.mark.real_data
def test_real_rows_that_are_no_conversations(real_data: Path) -> None:
    with pytest.raises(ValueError, match=r"ultra_eval\.json: the columns 'class', 'data' fit no schema"):
        list(ConversationReader([file_source(real_data / "sft/ultrachat/ultra_eval.json")]))
    with pytest.raises(ValueError, match=r"none of 1 rows(.|\n)*missing column: .*no 'critique'; found 'model'"):
        list(ConversationReader([file_source(real_data / "preference/ultrafeedback/readme_example_row.jsonl")]))
    # The prompts of preference rows end with a question; most are that question alone.
    reader = ConversationReader([file_source(real_data / "preference/llamafactory/dpo_en_demo.json")])
    assert 0 < len(list(reader)) < 150
    assert reader.tally.kept + reader.tally.counts["no assistant turn"] == 300
    assert reader.tally.notes["last question unanswered"] == reader.tally.kept
