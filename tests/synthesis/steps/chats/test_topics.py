"""Topics become sub-topics, instructions and harder ones by scripted models: what is asked, what is kept, what is counted."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.runner.record_file import IdentityError
from fulgurite.synthesis.steps.chats.domains import listed
from tests.synthesis.fakes import ran, written

MODELS = {"maker": {"model": "x"}}
SUBTOPICS = {"name": "subtopics", "do": "subtopics", "by": "maker", "n": {"text": 2, "code": 2, "maths": 2}}
INSTRUCTIONS = {
    "name": "instructions",
    "do": "instructions",
    "by": "maker",
    "n": 2,
    "rounds": 2,
    "strong": 1,
    "weak": 1,
}
COLUMNS = {name: name for name in ("instruction", "domain", "meta_topic", "sub_topic")}
TOPICS = [
    {"id": "t0", "domain": "text", "topic": "Travel"},
    {"id": "t1", "domain": "math", "topic": "Algebra"},
]


def rule(model: str, row: str, part: str, index: int, text: str) -> str:
    if part == "subtopics":
        topic = re.findall(r"sub-topics of (\w+)", text)[0]
        return f"Sure:\n1. {topic} for beginners | It is first | Pupils\n2. **Old {topic}** | It was | Readers"
    if part.startswith("round"):
        return f"### 1\nFirst of {row} {part}?\nIn two lines.\n### 2\nSecond of {row} {part}?"
    return f"Harder: {text.splitlines()[-1]}"


def test_topics_become_instructions(tmp_path: Path) -> None:
    seen: dict[tuple[str, str], str] = {}

    def noting(model: str, row: str, part: str, index: int, text: str) -> str:
        seen[row, part] = text
        return rule(model, row, part, index, text)

    rows = [*TOPICS, {"id": "own", "domain": "maths", "instruction": "What is 1 + 1?", "answer": "2"}]
    write = {"do": "write", "table": "rows", "columns": COLUMNS}
    done, asked = ran(
        written(tmp_path, {"models": MODELS, "steps": [SUBTOPICS, INSTRUCTIONS]}, rows), tmp_path / "out", noting
    )
    assert len(asked) == 2 + 2 * 4 and done.ledger.steps[2].figures == {"sub-topics": 4, "instructions of them": 16}
    steps = [SUBTOPICS, INSTRUCTIONS, {"do": "filter", "most": 999}]
    done, asked = ran(written(tmp_path, {"models": MODELS, "steps": steps}, rows), tmp_path / "out", noting)
    assert asked == [] and done.ledger.steps[-1].kept == 17, "an instruction with an answer goes through"
    topics = [{**step} for step in (SUBTOPICS, INSTRUCTIONS)]
    done, _ = ran(written(tmp_path, {"models": MODELS, "steps": [*topics, write]}, TOPICS), tmp_path / "out", noting)
    found = done.ledger.tables["rows"].rows
    assert found[0] == {
        "instruction": "First of t0+s1 round 1?\nIn two lines.", "domain": "text", "meta_topic": "Travel",
        "sub_topic": "Travel for beginners",
    }  # fmt: skip
    assert [row["domain"] for row in found] == ["text"] * 8 + ["maths"] * 8
    assert {row["sub_topic"] for row in found[8:]} == {"Algebra for beginners", "Old Algebra"}
    made = done.ledger.tables["rows"].made
    assert [answer["step"] for answer in made[0]["answers"]] == ["subtopics", "instructions"] and made[0][
        "row"
    ] == "t0+s1+i1"
    first, second = seen["t0+s2", "round 1"], seen["t0+s2", "round 2"]
    assert (
        "Old Travel, which belongs to Travel," in first
        and "It was. Readers." in first
        and "stand there already" not in first
    )
    strong, weak = second.split("stand there already")[1].split("something related")
    assert re.findall(r"of (\S+) round 1", strong) == ["t0+s2"] and re.findall(r"of (\S+) round 1", weak) == ["t0+s1"]


def test_more_topics_use_what_is_there(tmp_path: Path) -> None:
    steps = [SUBTOPICS, INSTRUCTIONS]
    _, first = ran(written(tmp_path, {"models": MODELS, "steps": steps}, TOPICS[:1]), tmp_path / "out", rule)
    _, second = ran(written(tmp_path, {"models": MODELS, "steps": steps}, TOPICS), tmp_path / "out", rule)
    assert len(first) == len(second) == 5 and not set(first) & set(second)
    with pytest.raises(IdentityError, match="answers another prompt"):
        steps = [SUBTOPICS, {**INSTRUCTIONS, "n": 3}]
        ran(written(tmp_path, {"models": MODELS, "steps": steps}, TOPICS), tmp_path / "out", rule)


def test_a_topic_waits_as_a_whole_and_ends_the_same(tmp_path: Path) -> None:
    """One sub-topic's answer cannot be had: its topic waits, for its prompts of the next round would be others without it."""
    recipe = {
        "models": MODELS,
        "steps": [SUBTOPICS, INSTRUCTIONS, {"do": "write", "table": "rows", "columns": COLUMNS}],
    }
    down = {("t0+s1", "round 1")}

    def broken(model: str, row: str, part: str, index: int, text: str) -> str | None:
        return None if (row, part) in down else rule(model, row, part, index, text)

    done, first = ran(written(tmp_path, recipe, TOPICS), tmp_path / "out", broken)
    assert len(done.ledger.tables["rows"].rows) == 8 and set(done.ledger.left) == {"t0+s1", "t0+s2"}
    again, second = ran(written(tmp_path, recipe, TOPICS), tmp_path / "out", rule)
    whole, asked = ran(written(tmp_path, recipe, TOPICS), tmp_path / "whole", rule)
    assert again.ledger.tables["rows"].rows == whole.ledger.tables["rows"].rows and again.ledger.left == {}
    assert sorted([one for one in first if one[1:3] not in down] + second) == sorted(asked)


def test_what_a_model_writes_otherwise_is_counted(tmp_path: Path) -> None:
    said = {
        ("t0", "subtopics", 0): "I cannot help with that.",
        ("t0", "subtopics", 1): "1. Trips\n2. By train | why\n3. By train\n4. By boat | why | who\n5. Trips on foot",
        ("t1", "subtopics", 0): "No.", ("t1", "subtopics", 1): "No.",
        ("t0+s1", "round 1", 0): "- One thing.\n- One  Thing.\n- Two things.\n- Three things.",
        ("t0+s1", "round 2", 0): "Nothing.",
        ("t0+s2", "round 1", 0): "Well,", ("t0+s2", "round 2", 0): "1. one thing.",
    }  # fmt: skip
    steps = [SUBTOPICS, INSTRUCTIONS]
    recipe = written(
        tmp_path, {"models": MODELS, "steps": steps}, [*TOPICS, {"id": "t2", "domain": "law", "topic": "Contracts"}]
    )
    done, _ = ran(recipe, tmp_path / "out", lambda model, row, part, index, text: said[row, part, index])
    _, sub, instructions = done.ledger.steps
    assert dict(sub.dropped) == {"no domain": 1, "no sub-topic in the answer": 1} and sub.rows == 3
    assert dict(sub.notes) == {
        "a sub-topic's name is not of 2 to 5 words: left out": 1, "the same sub-topic again: left out": 1,
        "a sub-topic without its use": 1, "more sub-topics than were asked for: left out": 1,
    }  # fmt: skip
    assert dict(instructions.dropped) == {"no instruction in the answers": 1}
    assert dict(instructions.notes) == {
        "the same instruction again: left out": 2, "more instructions than were asked for: left out": 2,
        "no instructions in an answer": 2,
    }  # fmt: skip
    assert instructions.kept == 1


def test_a_share_becomes_harder(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": f"r{i}", "domain": "text", "instruction": f"Tell me about {i}."} for i in range(200)
    ]
    rows += [
        {"id": f"a{i}", "domain": "maths", "instruction": f"What is {i} + 2?", "answer": str(i + 2)} for i in range(50)
    ]
    steps = [
        {"do": "complicate", "by": "maker"},
        {"do": "write", "table": "rows", "columns": {"text": "instruction"}},
    ]

    def some(model: str, row: str, part: str, index: int, text: str) -> str:
        asked = text.splitlines()[-1]
        return " " if row.endswith("0") else asked if row.endswith("1") else f"Harder: {asked}"

    done, asked = ran(written(tmp_path, {"models": MODELS, "steps": steps}, rows), tmp_path / "out", some)
    found = [row["text"] for row in done.ledger.tables["rows"].rows]
    figures, notes = done.ledger.steps[1].figures, done.ledger.steps[1].notes
    harder = [text for text in found if text.startswith("Harder: ")]
    assert len(found) == 250 and len(harder) == figures["rewritten"] and 40 <= len(asked) <= 80, "30 % of 200"
    assert notes["stays as it was: an empty answer"] + notes["stays as it was: the rewriting is the same"] == len(
        asked
    ) - len(harder)
    assert notes["not rewritten: its right answer is known"] == figures["drawn"] - len(asked) > 5
    assert all(row[1].startswith("r") for row in asked) and found[200:] == [f"What is {i} + 2?" for i in range(50)]


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("1. a\n2. b", ["a", "b"]),
        ("1) a\nmore\n 2: b", ["a\nmore", "b"]),
        ("### 1\nSort:\n1. x\n2. y\n### 2\nb", ["Sort:\n1. x\n2. y", "b"]),
        ("## Request 1:\na\n## Request 2:\nb", ["a", "b"]),
        ("**1.** a\n\n**2.** **b**", ["a", "b"]),
        ("- a\n* b\n-", ["a", "b"]),
        ("2. a\n3. b", []),
        ("1. It is 3.\n3. no\n2. b", ["It is 3.\n3. no", "b"]),
        ("", []),
    ],
)
def test_lists_of_models(text: str, entries: list[str]) -> None:
    assert listed(text) == entries
