"""Steps that keep, drop or judge rows: deduplicate, decontaminate, filter, judge, write; and rows that come broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.synthesis.steps.decontaminate import grams
from tests.synthesis.fakes import ran, written

WRITE = {"name": "out", "do": "write", "table": "rows", "columns": {"text": "instruction"}}
EIGHT = "one two three four five six seven eight"


def kept(folder: Path, rows: list[dict[str, Any]], *steps: dict[str, Any], **more: Any) -> tuple[list[str], Any]:
    """Texts of the rows that are left, and the run."""
    done, _ = ran(written(folder, {"steps": [*steps, WRITE]}, rows), folder / "out", lambda *_: "", **more)
    return [row["text"] for row in done.ledger.tables["rows"].rows], done


def texts(*given: str) -> list[dict[str, Any]]:
    return [{"instruction": text} for text in given]


def test_the_same_text_again(tmp_path: Path) -> None:
    found, done = kept(tmp_path, texts("A  cat.", "a cat.", "A dog."), {"do": "deduplicate"})
    assert found == ["A  cat.", "A dog."] and dict(done.ledger.steps[1].dropped) == {"the same text": 1}
    assert done.ledger.steps[1].first["the same text"] == ["2: as row 1"]


@pytest.mark.slow
def test_nearly_the_same_text(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    long = " ".join(f"word{i}" for i in range(60))
    rows = texts(long, long.replace("word30", "other"), " ".join(f"text{i}" for i in range(60)))
    found, done = kept(tmp_path, rows, {"do": "deduplicate", "near": 0.6})
    assert len(found) == 2 and dict(done.ledger.steps[1].dropped) == {"nearly the same text": 1}


def test_rows_of_a_test_set_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(
        json.dumps({"question": f"Count: {EIGHT}, and nine.", "answer": "9"})
        + "\n"
        + json.dumps({"question": "Short one?"})
    )
    rows = texts(
        f"Please say {EIGHT.upper()} aloud.",  # eight words of it, in other letters
        "one two three four five six seven nine eight",  # seven words of it
        "I ask: short  ONE? Yes.",  # all of a short one
        "Something else.",
    )
    step = {"do": "decontaminate", "against": [str(file)], "test_column": "question"}
    found, done = kept(tmp_path, rows, step)
    assert found == [rows[1]["instruction"], "Something else."]
    assert dict(done.ledger.steps[1].dropped) == {"8 words of a test row": 1, "a part of a test row, or around one": 1}
    assert kept(tmp_path, rows, {**step, "substring": False})[0] == [row["instruction"] for row in rows[1:]]
    assert kept(tmp_path, rows, {**step, "ngram": 0})[0] == [row["instruction"] for row in (rows[0], rows[1], rows[3])]
    assert grams("A b, c!", 2) == {"a b", "b c"} and grams("a", 2) == set()
    with pytest.raises(FileNotFoundError, match="against: no such file"):
        kept(tmp_path, rows, {**step, "against": ["nowhere.jsonl"]})


def test_rules_about_texts(tmp_path: Path) -> None:
    rows = texts("x = 1", "x = (", "y = 22222222")
    found, done = kept(tmp_path, rows, {"do": "filter", "most": 8, "python": True})
    assert found == ["x = 1"] and dict(done.ledger.steps[1].dropped) == {"a syntax error": 1, "more than 8 letters": 1}


@pytest.mark.slow
def test_rows_in_the_wanted_language(tmp_path: Path) -> None:
    pytest.importorskip("lingua")
    rows = texts("Wie viele Äpfel bleiben in dem Korb übrig?", "How many apples are left in the basket?")
    found, done = kept(tmp_path, rows, {"do": "filter", "language": "de"})
    assert found == [rows[0]["instruction"]] and done.ledger.steps[1].first["another language"] == ["2: en"]


def test_only_what_a_model_fails_at(tmp_path: Path) -> None:
    """Draw, judge, filter: instructions that a model solves are left out, as UltraInteract leaves out what GPT-3.5 solves."""
    rows = [{"id": f"r{i}", "instruction": f"What is {i} + 90?", "answer": str(i + 90)} for i in range(3)]
    steps = [
        {"do": "draw", "models": ["m"], "draws": 2},
        {"do": "judge"},
        {"do": "filter", "column": "right", "equals": 0},
        WRITE,
    ]

    def rule(model: str, row: str, part: str, index: int, text: str) -> str:
        return "Answer: 91" if row == "r1" and index == 1 else "" if row == "r2" else "Answer: 5"

    recipe = written(tmp_path, {"models": {"m": {"model": "x"}}, "steps": steps}, rows)
    done, asked = ran(recipe, tmp_path / "out", rule)
    assert [row["text"] for row in done.ledger.tables["rows"].rows] == ["What is 0 + 90?", "What is 2 + 90?"]
    assert len(asked) == 6 and dict(done.ledger.steps[3].dropped) == {"right is another": 1}
    assert done.ledger.steps[2].notes == {"wrong without a trial: empty action": 2}
    assert done.ledger.steps[1].notes == {"an empty completion": 2}
    assert len(done.ledger.tables["rows"].made[0]["answers"]) == 2


def test_broken_rows_are_counted_by_reason(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "instruction": "Fine."},
        {"id": "b"},
        {"id": "c", "instruction": "   "},
        {"id": "d", "instruction": ["a", "list"]},
        {"id": "e", "instruction": "x" * 100_001},
        {"id": "f", "instruction": "half a pair: \ud83d"},
        {"id": "a", "instruction": "Twice."},
        {"id": "g", "instruction": "Which?", "answer": ""},
    ]
    found, done = kept(tmp_path, rows, on_bad_row="skip")
    assert found == ["Fine."] and done.ledger.steps[0].rows == 8
    assert dict(done.ledger.steps[0].dropped) == {
        "no instruction": 1, "empty instruction": 1, "not a text": 1, "too long": 1, "broken Unicode": 1,
        "a key that stands there already": 1, "no problem": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"7 of 8 rows .* would be left out .*accept it with --on_bad_row skip"):
        kept(tmp_path, rows)
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: no instruction: .*on_bad_row skip"):
        kept(tmp_path, rows, on_bad_row="error")


def test_items_of_a_task(tmp_path: Path) -> None:
    recipe = written(tmp_path, {"rows": {"task": "mbpp", "path": "builtin"}, "steps": [WRITE]})
    done, _ = ran(recipe, tmp_path / "out", lambda *_: "", limit=3)
    found = [row["text"] for row in done.ledger.tables["rows"].rows]
    assert len(found) == 3 and all("Your program should pass this test: assert " in text for text in found)
    recipe = written(tmp_path, {"rows": {"task": "gsm8k", "path": "builtin", "kind": "Coding"}, "steps": [WRITE]})
    with pytest.raises(ValueError, match="kind='Coding' of the task gsm8k; allowed are Math_CoT, Math_PoT"):
        ran(recipe, tmp_path / "out", lambda *_: "")
