"""Training data from repairs that worked: which rows there are, and that the data modules read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fulgurite.datamodules import PreferenceDataModule, SFTDataModule
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.repair.loop import repair
from fulgurite.evaluation.repair.training import write_rows
from tests.evaluation.repair.fakes import Scripted, made_plan, right, rule, run_here


def in_chat(*call: Any) -> str:
    """The same rule for a chat: whole functions in a block."""
    text = rule(*call)
    if call[4] != "program" or text.startswith("I would"):
        return text
    return f"Like this:\n```python\ndef shift{call[1]}(x):\n{text}```\nDone."


@pytest.fixture(params=[False, True], ids=["completion", "chat"])
def written(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bool]:
    monkeypatch.setattr(judging, "run_jobs", run_here)
    chat: bool = request.param
    plan = made_plan(tmp_path, Scripted(in_chat if chat else rule), chat=chat, baselines=False)
    done = repair(plan, silent=True)
    found = write_rows(plan, done.book)
    assert {file.name for file in found} == {"sft.jsonl", "pairs.jsonl"}
    assert found == {file: len(file.read_text().splitlines()) for file in found}
    return tmp_path, chat


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_the_rows(written: tuple[Path, bool]) -> None:
    folder, chat = written
    sft, pairs = rows(folder, "sft.jsonl"), rows(folder, "pairs.jsonl")
    # Problems 1, 3 and 4 were mended once each: an explanation and a program of each.
    assert len(sft) == 6
    answers = [row["messages"][-1]["content"] if chat else row["completion"] for row in sft]
    assert sum("is wrong: look at the example" in answer for answer in answers) == 3
    assert sum(right(number) in answer for answer in answers for number in (1, 3, 4)) == 3
    if chat:
        assert all([turn["role"] for turn in row["messages"]] == ["user", "assistant"] for row in sft)
        assert sum(answer.startswith("```python\ndef shift") for answer in answers) == 3, "without the words around it"
    # 1: its first prompt. 3: its first prompt and that of turn 1. 4: its prose is no program.
    assert len(pairs) == 3
    for row in pairs:
        chosen, rejected = (row[name][0]["content"] if chat else row[name] for name in ("chosen", "rejected"))
        assert any(right(number) in chosen for number in (1, 3)) and ("x + 1" in rejected or "x + step" in rejected)
        if not chat:
            assert not chosen.startswith("def "), "what the prompt holds is not written again"


def test_the_data_modules_read_them(written: tuple[Path, bool], tmp_path: Path) -> None:
    folder, chat = written
    options: Any = {
        "tokenizer": "playground",
        "cache_dir": str(tmp_path / "tokens"),
        "val_fraction": 0.0,
        "max_length": 512,
    }
    sft = SFTDataModule(
        path=str(folder / "sft.jsonl"), template=None if chat else "none", on_bad_row="error", **options
    )
    sft.setup("fit")
    found = sft._rows("train")
    assert found is not None and len(found) == 6
    tokenizer = sft.load_tokenizer()
    texts = [tokenizer.decode(ids) for ids in next(iter(sft.train_dataloader()))["input_ids"]]
    assert any("What running it says" in text for text in texts)
    pairs = PreferenceDataModule(path=str(folder / "pairs.jsonl"), as_chat=chat, on_bad_row="error", **options)
    pairs.setup("fit")
    trees = pairs._rows("train")
    assert trees is not None and int(trees.targets().sum()) == 3


def test_answers_to_one_prompt_are_compared_across_chains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chains of one problem: the first program of chain 0 passes, that of chain 1 does not."""
    monkeypatch.setattr(judging, "run_jobs", run_here)

    def two(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        return right(number) if index == 0 or step != "program" else "    return x + 1\n"

    plan = made_plan(tmp_path, Scripted(two), items=1, n=2, baselines=False)
    found = write_rows(plan, repair(plan, silent=True).book)
    assert found == {tmp_path / "pairs.jsonl": 1}
    (row,) = rows(tmp_path, "pairs.jsonl")
    assert (row["chosen"], row["rejected"]) == (right(0), "    return x + 1\n")
