"""A tenth of bad rows is left out and counted; more has to be accepted by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.datamodules import PreferenceDataModule, SFTDataModule, UltraInteractDataModule

GOOD: dict[str, Any] = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}
BAD: dict[str, Any] = {"messages": [{"role": "user", "content": "2 + 2?"}]}
PAIR: dict[str, Any] = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
NO_PAIR: dict[str, Any] = {"prompt": "2 + 2?", "chosen": "4", "rejected": ""}


def write(folder: Path, good: dict[str, Any], bad: dict[str, Any], share: int) -> str:
    file = folder / "train.jsonl"
    rows = [bad if i < share else good for i in range(50)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [(SFTDataModule, GOOD, BAD), (UltraInteractDataModule, GOOD, BAD), (PreferenceDataModule, PAIR, NO_PAIR)],
)
def test_more_than_a_tenth_of_bad_rows_must_be_accepted(tmp_path: Path, kind: Any, good: Any, bad: Any) -> None:
    def read(**options: Any) -> Any:
        schema = "messages" if kind is UltraInteractDataModule else "auto"
        data = kind(
            path=path,
            tokenizer="playground",
            schema=schema,
            val_fraction=0,
            cache_dir=str(tmp_path / "cache"),
            **options,
        )
        data.setup("fit")
        return data

    path = write(tmp_path, good, bad, 5)
    assert "5 left out" in read().describe()
    path = write(tmp_path, good, bad, 6)
    with pytest.raises(
        ValueError,
        match=r"6 of 50 rows of .*train.jsonl would be left out \(12%\); .* on_bad_row='skip'\n  6 left out, ",
    ):
        read()
    assert "6 left out" in read(on_bad_row="skip").describe()
