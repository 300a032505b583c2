"""Dialogues of scripted models: turns, roles, tries, what is judged and by what, balance, and the tables that come out."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fulgurite.synthesis.steps.chats.balance import BalanceOptions
from tests.synthesis.fakes import ran, written

MODELS = {name: {"model": "x"} for name in ("user", "one", "other")}
SIMULATE = {"name": "chat", "do": "simulate", "assistant": "one", "user": "user", "turns": 3, "run_code": False}
WRITE = {"do": "write", "table": "rows", "columns": {"data": "data", "instruction": "instruction"}}
DOMAINS = ("text", "code", "maths")


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"r{i}", "domain": DOMAINS[i % 3], "instruction": f"Ask {i}."} for i in range(count)]


def rule(model: str, row: str, part: str, index: int, text: str) -> str:
    return f"{model} says {part.partition('/')[0]} of {row}."


def test_dialogues_of_two_roles(tmp_path: Path) -> None:
    seen: dict[tuple[str, str], str] = {}

    def noting(model: str, row: str, part: str, index: int, text: str) -> str:
        seen[row, part] = text
        return (
            f"User: {rule(model, row, part, index, text)}" if model == "user" else rule(model, row, part, index, text)
        )

    done, asked = ran(
        written(tmp_path, {"models": MODELS, "steps": [SIMULATE, WRITE]}, rows(60)), tmp_path / "out", noting
    )
    turns: Counter[int] = Counter()
    for number, row in enumerate(done.ledger.tables["rows"].rows):
        data, length = row["data"], len(row["data"]) // 2
        expected = [f"Ask {number}.", f"one says turn 1 of r{number}."]
        for turn in range(2, length + 1):
            expected += [f"user says turn {turn} of r{number}.", f"one says turn {turn} of r{number}."]
        assert data == expected
        turns[length] += 1
        assert len(done.ledger.tables["rows"].made[number]["answers"]) == 2 * length - 1
    assert set(turns) == {1, 2, 3} and min(turns.values()) >= 10, "1 to 3 turns with equal chance"
    assert done.ledger.steps[1].figures == {"dialogues by turns": dict(sorted(turns.items())),
                                            "answers judged by": {"nothing": sum(t * n for t, n in turns.items())}}  # fmt: skip
    assert len(asked) == sum((2 * t - 1) * n for t, n in turns.items())
    third = next(row for row, part in seen if part == "turn 3/user")
    said = seen[third, "turn 3/user"]
    assert said.startswith("You play the user") and said.endswith(f"assistant: one says turn 2 of {third}.")
    # The assistant sees turns of a conversation and nothing about roles.
    assert seen[third, "turn 3/assistant"].splitlines()[1:3] == [
        f"one says turn 1 of {third}.",
        f"user says turn 2 of {third}.",
    ]


def test_each_domain_has_its_assistant(tmp_path: Path) -> None:
    step = {**SIMULATE, "assistant": {"text": "one", "maths": "other"}, "turns": 1, "user": None}
    given = [
        *rows(6),
        {"id": "x", "domain": "law", "instruction": "Ask."},
        {"id": "t", "domain": "text", "topic": "Law"},
    ]
    given.append({"id": "a", "instruction": "What is 1 + 1?", "answer": "2"})
    done, asked = ran(
        written(tmp_path, {"models": MODELS, "steps": [step]}, given), tmp_path / "out", lambda *_: "It is 2."
    )
    assert {(model, row) for model, row, *_ in asked} == {
        ("one", "r0"), ("one", "r3"), ("other", "r2"), ("other", "r5"), ("other", "a"),
    }  # fmt: skip
    assert dict(done.ledger.steps[1].dropped) == {
        "a domain without an assistant": 2, "no domain": 1, "a topic that did not become instructions": 1,
    }  # fmt: skip


def test_the_user_ends_it(tmp_path: Path) -> None:
    ends = {"r0": "END", "r1": " ", "r2": "ask 2.", "r3": "**END**.", "r4": "The END is near.", "r5": "User:"}
    step = {**SIMULATE, "turns": 2}

    def rule_of(model: str, row: str, part: str, index: int, text: str) -> str:
        return ends[row] if model == "user" else "Well."

    given = rows(6)
    done, asked = ran(
        written(tmp_path, {"models": MODELS, "steps": [step, WRITE], "seed": 4}, given), tmp_path / "out", rule_of
    )
    users = {row for model, row, *_ in asked if model == "user"}
    assert len(users) >= 3, "of this seed some have two turns"
    notes = done.ledger.steps[1].notes
    short = {row for row in users if row != "r4"}
    assert sum(notes.values()) == len(short) and all(
        why.startswith("shorter than drawn: the user wrote") for why in notes
    )
    lengths = {row["instruction"]: len(row["data"]) for row in done.ledger.tables["rows"].rows}
    assert lengths == {f"Ask {i}.": 4 if f"r{i}" in users - short else 2 for i in range(6)}


CODE = "def twice(x):\n    return 2 * x\n"
RIGHT = {
    "maths": "It is 7 + 1 = 8. The answer is 8.",
    "code": f"```python\n{CODE}```",
    "bare": CODE,
    "text": "yes",
}


def judged_rows() -> list[dict[str, Any]]:
    code = {"domain": "code", "instruction": "Write twice(x).", "tests": ["assert twice(4) == 8"]}
    return [
        {"id": "maths", "domain": "maths", "instruction": "What is 7 + 1?", "answer": "8"},
        {"id": "code", **code},
        {"id": "bare", **code, "instruction": "Write twice (x)."},
        {"id": "text", "domain": "text", "instruction": "Is it true?", "answer": "yes"},
    ]


@pytest.mark.slow
def test_known_answers_decide_and_are_asked_for_again(tmp_path: Path) -> None:
    """The second draw is right; of the row text none is, so that it is left out."""
    step = {**SIMULATE, "turns": 1, "user": None, "tries": 3}

    def rule_of(model: str, row: str, part: str, index: int, text: str) -> str:
        wrong = {
            "maths": "It is 9.",
            "code": "```python\ndef twice(x):\n    return x\n```",
            "bare": "def twice(:",
            "text": "no",
        }
        return RIGHT[row] if index == 1 and row != "text" else wrong[row]

    done, asked = ran(
        written(tmp_path, {"models": MODELS, "steps": [step, WRITE]}, judged_rows()), tmp_path / "out", rule_of
    )
    assert [row["data"][1] for row in done.ledger.tables["rows"].rows] == [
        RIGHT[n].strip() for n in ("maths", "code", "bare")
    ]
    assert Counter(row for _, row, *_ in asked) == {"maths": 2, "code": 2, "bare": 2, "text": 3}
    counted = done.ledger.steps[1]
    assert dict(counted.dropped) == {"no answer that can stand: a wrong answer": 1}
    assert dict(counted.notes) == {
        "an answer that cannot stand: a wrong answer": 5, "an answer that cannot stand: no program": 1,
    }  # fmt: skip
    assert counted.figures["answers judged by"] == {"answer": 1, "tests": 2}
    again, asked = ran(
        written(tmp_path, {"models": MODELS, "steps": [step, WRITE]}, judged_rows()), tmp_path / "out", rule_of
    )
    assert asked == [] and again.ledger.tables["rows"].rows == done.ledger.tables["rows"].rows


@pytest.mark.slow
def test_code_in_answers_is_run(tmp_path: Path) -> None:
    texts = {
        "fine": "So:\n```python\nx = [1, 2]\nprint(sum(x))\n```",
        "fails": "So:\n```python\nx = 1 / 0\n```",
        "syntax": "```python\nprint(\n```",
        "input": "```python\nname = input()\n```",
        "package": "```python\nimport no_such_package\n```",
        "handled": "```python\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    print('ZeroDivisionError: caught')\n```",
        "leaves": "```python\nimport sys\nsys.exit(0)\n```",
        "other": "```sh\nls |\n```\n```\nnot python (\n```",
        "session": "```python\n>>> 1 +\n```",
        "prose": "No code at all.",
    }
    given = [{"id": name, "domain": "code", "instruction": f"Ask {name}."} for name in texts]
    step = {**SIMULATE, "turns": 1, "user": None, "run_code": True}
    recipe = {"models": MODELS, "steps": [step, WRITE]}
    done, _ = ran(written(tmp_path, recipe, given), tmp_path / "out", lambda model, row, *_: texts[row])
    kept = [row["instruction"][4:-1] for row in done.ledger.tables["rows"].rows]
    assert kept == [name for name in texts if name not in ("fails", "syntax")]
    counted = done.ledger.steps[1]
    assert dict(counted.dropped) == {
        "no answer that can stand: code that fails": 1, "no answer that can stand: syntax error": 1,
    }  # fmt: skip
    assert counted.notes["code that cannot be run here"] == 2
    assert counted.figures["answers judged by"] == {"not run here": 2, "nothing": 3, "run": 3}
    assert "ZeroDivisionError: division by zero" in counted.first["no answer that can stand: code that fails"][0]


@pytest.mark.slow
def test_later_code_sees_the_code_before_it(tmp_path: Path) -> None:
    """A later answer that fails shortens the dialogue; one that uses what an earlier answer made does not."""

    def rule_of(model: str, row: str, part: str, index: int, text: str) -> str:
        if model == "user":
            return f"And {part}?"
        first = part.startswith("turn 1")
        return "```python\nx = 3\n```" if first else f"```python\nprint({'x' if row < 'r5' else 'y'} + 1)\n```"

    step = {**SIMULATE, "turns": 2, "run_code": True}
    done, asked = ran(written(tmp_path, {"models": MODELS, "steps": [step, WRITE]}, rows(9)), tmp_path / "out", rule_of)
    two = {row for model, row, *_ in asked if model == "user"}
    assert {row < "r5" for row in two} == {True, False}
    lengths = {f"r{row['instruction'][4:-1]}": len(row["data"]) for row in done.ledger.tables["rows"].rows}
    assert lengths == {f"r{i}": 4 if f"r{i}" in two and i < 5 else 2 for i in range(9)}
    assert done.ledger.steps[1].notes["shorter than drawn: no answer could stand"] == len(
        [row for row in two if row >= "r5"]
    )


@pytest.mark.slow
def test_balance_and_the_published_schema(tmp_path: Path) -> None:
    from fulgurite.datamodules import UltraChat2DataModule

    steps = [{**SIMULATE, "turns": 2}, {"name": "balance", "do": "balance"}]
    given = [{"id": f"{d}{i}", "domain": d, "instruction": f"Ask {d} {i}."} for d, n in (("text", 30), ("code", 20), ("maths", 44))
             for i in range(n)]  # fmt: skip
    done, _ = ran(written(tmp_path, {"models": MODELS, "steps": steps}, given), tmp_path / "out", rule)
    assert done.ledger.steps[2].figures == {
        "text": {"came": 30, "kept": 20}, "code": {"came": 20, "kept": 20}, "maths": {"came": 44, "kept": 22},
    }  # fmt: skip
    assert dict(done.ledger.steps[2].dropped) == {"more than the balance takes": 32}
    for name, count in (("text", 20), ("code", 20), ("maths", 22)):
        lines = [json.loads(line) for line in (tmp_path / "out" / f"{name}.jsonl").read_text().splitlines()]
        assert len(lines) == count and all(
            list(row) == ["id", "data"] and row["id"].startswith(f"{name}_") for row in lines
        )
        assert len({row["id"] for row in lines}) == count and all(len(row["data"]) in (2, 4) for row in lines)
    options: dict[str, Any] = {
        "batch_size": 2,
        "max_length": 512,
        "val_fraction": 0,
        "templates": ["ultrachat", "mistral"],
    }
    data = UltraChat2DataModule(
        str(tmp_path / "out"), tokenizer="playground", cache_dir=str(tmp_path / "cache"), on_bad_row="error", **options
    )
    data.setup("fit")
    assert data.tag_names == ["text", "code", "maths"] and "62 were read, 0 left out" in data.describe()
    batch = next(iter(data.train_dataloader()))
    assert Counter(batch["tag"].tolist()) == {0: 2, 1: 2, 2: 2}, "rows of .made.jsonl are none of a domain's"
    least, _ = ran(
        written(tmp_path, {"models": MODELS, "steps": [steps[0], {**steps[1], "most": 31}]}, given),
        tmp_path / "out",
        rule,
    )
    assert [len(least.ledger.tables[name].rows) for name in DOMAINS] == [10, 10, 11]


def test_a_domain_without_rows_leaves_nothing(tmp_path: Path) -> None:
    given = [row for row in rows(9) if row["domain"] != "code"]
    step = {**SIMULATE, "turns": 1, "user": None}
    recipe = {"models": MODELS, "steps": [step, {"do": "balance"}]}
    done, _ = ran(written(tmp_path, recipe, given), tmp_path / "out", rule)
    assert dict(done.ledger.steps[2].dropped) == {"no rows of code to balance with": 6}
    recipe["steps"] = [step, {"do": "balance", "shares": {"text": 1, "maths": 2}}]
    done, _ = ran(written(tmp_path, recipe, given), tmp_path / "out", rule)
    assert [len(done.ledger.tables[name].rows) for name in ("text", "maths")] == [1, 3]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({**SIMULATE, "user": None}, "needs a model that plays the user"),
        ({**SIMULATE, "turns": 1}, "in which no user model speaks"),
        ({**SIMULATE, "assistant": {"law": "one"}}, "assistant of simulate names 'law'; allowed are text, code, maths"),
        ({**SIMULATE, "tries": 0}, "tries=0"),
        ({"do": "balance", "shares": {"law": 1}}, "shares of balance names 'law'"),
        ({"do": "balance", "most": 2}, "at least as many rows as domains"),
        ({"do": "subtopics", "by": "one", "n": {}}, "n of subtopics is empty"),
        ({"do": "instructions", "by": "one", "weak": -1}, "weak=-1 of instructions"),
        ({"do": "complicate", "by": "one", "share": 0}, "share=0"),
    ],
)
def test_one_sentence_for_a_mistake(step: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        written(tmp_path, {"models": MODELS, "steps": [step]}, rows(1))


def test_shares_are_the_published_ones() -> None:
    assert BalanceOptions().shares == {"text": 100_000, "code": 100_000, "maths": 110_000}
