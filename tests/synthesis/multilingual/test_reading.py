"""Documents and dialogues as rows; what is broken is counted by reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.synthesis.recipe import RowOptions
from fulgurite.synthesis.sources import first_rows

GOOD = (("human", "Hi?"), ("gpt", "Yes."))


def lines(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


def test_documents_that_come_broken(tmp_path: Path) -> None:
    given = [
        {"id": 7, "title": "Tides", "text": "Water."},
        {"id": 8, "text": "x" * 10_000_000},
        {"id": 9, "text": " "},
        {"id": 10, "text": None},
        {"id": 11, "text": 3},
        {"id": 12, "text": "half \ud83d"},
        {"id": 13, "text": "was decoded \ufffd badly"},
        {"id": 7, "text": "Again."},
    ]
    rows, count, there = first_rows(RowOptions(lines(tmp_path, given), reads="documents"), None, "skip")
    assert [(row.key, row.data) for row in rows] == [("7", {"document": "Water.", "title": "Tides"})] and there == 1
    assert count.rows == 8 and dict(count.dropped) == {
        "too long": 1, "empty text": 1, "no text": 1, "not a text": 1, "broken Unicode": 2, "a key that stands there already": 1,
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"7 of 8 rows .* would be left out"):
        first_rows(RowOptions(lines(tmp_path, given), reads="documents"), None, "few")
    with pytest.raises(ValueError, match=r"line 2: too long: 10000000 letters; allowed are 100000; correct the row"):
        first_rows(RowOptions(lines(tmp_path, given), reads="documents"), None, "error")


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Ума́нь — город.\n\nЕщё.", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b"good, then \xff\xfe bad")
    rows, count, _ = first_rows(RowOptions(str(tmp_path), reads="documents"), None, "skip")
    assert [row.key for row in rows] == ["a"] and rows[0].data["title"] == "a"
    assert count.first["broken Unicode"] == [f"{tmp_path / 'b.txt'}: no UTF-8 at byte 11"]


def test_dialogues_of_any_schema(tmp_path: Path) -> None:
    given: list[dict[str, Any]] = [
        {"conversations": [{"from": "system", "value": "Be brief."}, *({"from": who, "value": v} for who, v in GOOD)]},
        {"conversations": [{"from": "gpt", "value": "Yes."}]},
        {"conversations": [{"from": "human", "value": "Hi \ufffd?"}, {"from": "gpt", "value": "Yes."}]},
        {"conversations": []},
    ]  # fmt: skip
    rows, count, _ = first_rows(RowOptions(lines(tmp_path, given), reads="dialogues"), None, "skip")
    assert [row.data for row in rows] == [{"dialogue": ["Hi?", "Yes."], "instruction": "Hi?", "text": "Hi?\n\nYes."}]
    assert sum(count.dropped.values()) == 3 and count.rows == 4 and count.dropped["broken Unicode"] == 1
    assert count.notes == {"a system message is left out: UltraLink's rows have none": 1}
    maths = RowOptions(
        lines(tmp_path, [{"query": "2 + 2?", "response": "4"}]),
        reads="dialogues", schema="alpaca", columns={"instruction": "query", "output": "response"},
    )  # fmt: skip
    assert first_rows(maths, None, "few")[0][0].data["dialogue"] == ["2 + 2?", "4"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"reads": "documents", "kind": "Coding"}, "rows.kind and rows.dataset say nothing about documents"),
        ({"reads": "documents", "schema": "alpaca"}, "rows.schema='alpaca' of documents"),
        ({"reads": "documents", "columns": {"body": "text"}}, "rows.columns names 'body'; allowed of documents are"),
        (
            {"reads": "dialogues", "schema": "glue/cola"},
            "of builtin dialogues; allowed are ultrafeedback_critique|of builtin",
        ),
        ({"reads": "dialogues", "task": "gsm8k"}, "a task's items are requests"),
        ({"longest": 0}, "rows.longest=0"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        first_rows(RowOptions("builtin", **options), 2, "few")
