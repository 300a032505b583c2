"""Built-in conversations: the published schemas, right answers, disjoint splits, the same rows everywhere."""

import hashlib
import json
import re
from typing import Any

import pytest

from fulgurite.data.playground import Task, builtin_rows, check
from fulgurite.data.playground.content.languages import LANGUAGES
from fulgurite.data.playground.rows.conversations import CONVERSATION_ROWS, made_conversations

_COLUMNS = {
    "ultrainteract_sft": ["task", "dataset", "instruction", "response", "id", "parent_id"],
    "ultrachat": ["id", "data"],
    "ultrachat_200k": ["prompt", "prompt_id", "messages"],
    "ultralink": ["id", "data"],
    "ultrafeedback": ["source", "instruction", "models", "completions", "correct_answers", "incorrect_answers"],
    "sharegpt": ["id", "conversations"],
    "alpaca": ["instruction", "input", "output"],
    "prompt_completion": ["prompt", "completion"],
    **{f"ultrachat2/{domain}": ["id", "data"] for domain in ("text", "code", "maths")},
}
_DIGESTS = {
    "ultrainteract_sft": "5b847ac03e3da5f7",
    "ultrachat": "c59d4a97a0ad462a",
    "ultrachat_200k": "82af0b342bfaf820",
    "ultralink": "a293e5cca2603ec3",
    "ultrafeedback": "70cbe0d7508eba79",
    "sharegpt": "8db5c2410cf16f80",
    "alpaca": "bd7c10c1d9b8c376",
    "prompt_completion": "bceba65c362180ad",
    "ultrachat2/text": "b043633c4228fe22",
    "ultrachat2/code": "37f332895407b2da",
    "ultrachat2/maths": "54af7da28c89c8a9",
}


def answers(schema: str, row: dict[str, Any]) -> list[str]:
    if schema in ("ultrachat", "ultralink") or schema.startswith("ultrachat2/"):
        return row["data"][1::2]
    if schema == "ultrachat_200k":
        return [message["content"] for message in row["messages"] if message["role"] == "assistant"]
    if schema == "sharegpt":
        return [turn["value"] for turn in row["conversations"] if turn["from"] == "gpt"]
    if schema == "ultrafeedback":
        return [max(row["completions"], key=lambda each: each["overall_score"])["response"]]
    return [
        row[{"ultrainteract_sft": "response", "alpaca": "output", "prompt_completion": "completion"}[schema]].strip()
    ]


@pytest.mark.slow
@pytest.mark.parametrize("schema", CONVERSATION_ROWS)
def test_columns_answers_and_splits(schema: str) -> None:
    questions: dict[str, set[str]] = {}
    for split in ("train", "validation", "test"):
        made = list(made_conversations(schema, split, count=150))
        assert [row for row, _ in made] == builtin_rows(schema, split, count=150)
        assert {tuple(row) for row, _ in made} == {tuple(_COLUMNS[schema])}
        for row, tasks in made:
            given = answers(schema, row)
            assert len(given) == len(tasks)
            assert all(check(task, answer) for task, answer in zip(tasks, given, strict=True)), row
        questions[split] = {tasks[0].prompt for _, tasks in made}
        assert len(questions[split]) > 60
    assert not questions["train"] & (questions["validation"] | questions["test"])
    assert not questions["validation"] & questions["test"]
    assert [len(builtin_rows(schema, split)) for split in ("validation", "test")] == [200, 200]


@pytest.mark.parametrize("schema", CONVERSATION_ROWS)
def test_the_same_rows_everywhere_and_the_first_whatever_the_count(schema: str) -> None:
    rows = builtin_rows(schema, "train", count=40)
    assert rows[:15] == builtin_rows(schema, "train", count=15)
    assert rows != builtin_rows(schema, "train", seed=1, count=40)
    digest = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]
    assert digest == _DIGESTS[schema]


@pytest.mark.parametrize("domain", ["text", "code", "maths"])
def test_rows_of_one_domain(domain: str) -> None:
    assert {
        task.domain for _, tasks in made_conversations(f"ultrachat2/{domain}", "train", count=50) for task in tasks
    } == {domain}
    assert len(builtin_rows(f"ultrachat2/{domain}", "train")) == 6000


def test_ultralink_has_every_language_and_kind_with_answers_of_its_own() -> None:
    rows = builtin_rows("ultralink", "train", count=600)
    kinds = {
        re.fullmatch(r"([a-z]{2})_(code|math|chat_agnostic|chat_specific)_\d+", row["id"]).groups() for row in rows
    }
    assert len(kinds) == 20 and {language for language, _ in kinds} == set(LANGUAGES)
    assert {len(row["data"]) for row in rows if "chat_specific" in row["id"]} == {4}
    task = Task("text", "reading", "书是红色的。书是什么颜色的？", "书是红色的。")
    assert check(task, "书是红色的") and not check(task, "书是黑色的。") and not check(task, "")


def test_ultrafeedback_has_the_published_details() -> None:
    rows = builtin_rows("ultrafeedback", "train", count=100)
    ratings = set()
    for row in rows:
        assert row["models"] == [each["model"] for each in row["completions"]] and len(row["models"]) == 4
        for each in row["completions"]:
            assert list(each) == [
                "model", "principle", "custom_system_prompt", "response", "annotations", "critique", "overall_score",
                "fine-grained_score",
            ]  # fmt: skip
            notes = each["annotations"]
            assert list(notes) == ["instruction_following", "honesty", "truthfulness", "helpfulness"]
            assert list(notes["honesty"]) == ["Rating", "Rationale"]
            assert list(notes["helpfulness"]) == ["Type", "Rationale", "Rating", "Rationale For Rating"]
            known = [int(note["Rating"]) for note in notes.values() if note["Rating"] != "N/A"]
            assert each["fine-grained_score"] == sum(known) / len(known)
            assert not (each["overall_score"] == 10 and each["fine-grained_score"] <= 2)
            ratings |= {note["Rating"] for note in notes.values()}
    assert ratings == {"N/A", "1", "2", "3", "4", "5"}


def test_unknown_splits() -> None:
    with pytest.raises(ValueError, match=r"split 'dev'; allowed are train, validation, test"):
        builtin_rows("ultrachat", "dev")
