"""`evaluate --until_passes`: from the command to rates, counts that `scaling` reads, and a picture; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from fulgurite.adapters import LoRA, attach
from fulgurite.cli import main
from fulgurite.commands.evaluate.until_passes import size_of
from fulgurite.evaluation.pass_until.counts import table_of
from fulgurite.evaluation.pass_until.reading import read_counts

pytest.importorskip("scipy")
RUN = "evaluate --model playground --tasks gsm8k --path builtin --limit 3 --batch_size 32".split()


def test_the_playground(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*RUN, "--max_new_tokens", "48", "--chat", "--until_passes", "2", "--cap", "128", "--out", str(tmp_path)]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "pass rates, draws until 2 passes or 128" in said and "results.png" in said and "counts.csv" in said
    assert (tmp_path / "results.png").stat().st_size > 5000
    found = json.loads((tmp_path / "results.json").read_text())["results"]["gsm8k"]
    rows = read_counts(tmp_path / "gsm8k" / "counts.csv")
    assert [(row.n, row.c, row.r, row.cap) for row in rows] == [(i["n"], i["c"], 2, 128) for i in found["items"]]
    assert sum(found["states"].values()) == 3 and found["states"]["open"] == 0
    counts = table_of(rows)
    assert counts.rates.mean() == pytest.approx(found["score"]["pu"])
    assert 0 < rows[0].size < 857_216, "without the embedding"
    before = (tmp_path / "gsm8k" / "draws.jsonl").read_text()
    assert main(words) == 0
    assert (tmp_path / "gsm8k" / "draws.jsonl").read_text() == before, "nothing is drawn twice"


def test_until_the_task_has_its_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        *RUN,
        "--max_new_tokens",
        "32",
        "--chat",
        "--until_passes",
        "3",
        "--until_passes_of",
        "task",
        "--cap",
        "96",
    ]
    cost = "until 3 passes of the task of 3 items, or 96 draws: 3 to 96 draws, at most 3,072 tokens of answers"
    assert main([*words, "--dry_run", "true"]) == 0 and cost in " ".join(capsys.readouterr().out.split())
    assert main([*words, "--out", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert cost in said
    assert "pass rates, draws until 3 passes of the task or 96" in said
    assert (tmp_path / "results.png").stat().st_size > 5000
    found = json.loads((tmp_path / "results.json").read_text())["results"]["gsm8k"]
    [row] = read_counts(tmp_path / "gsm8k" / "counts.csv")
    assert (row.n, row.c) == (found["task_draws"]["n"], found["task_draws"]["c"])
    assert (row.r, row.cap, row.stop, row.items) == (3, 96, "task", 3)
    assert sum(item["n"] for item in found["items"]) == row.n and sum(item["c"] for item in found["items"]) == row.c
    counts = table_of([row])
    assert counts.whole == 3 and counts.rates.mean() == pytest.approx(found["score"]["pu"])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--until_passes", "1"], "until_passes=1; give 2 or more"),
        (["--until_passes", "2", "--n", "4"], "--until_passes takes no --n, --k or --phase"),
        (["--until_passes", "2", "--temperature", "0"], "at temperature 0 every draw is the same"),
        (["--max_new_tokens", "0"], "max_new_tokens=0"),
    ],
)
def test_what_makes_no_sense(tmp_path: Path, more: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*RUN, *more, "--out", str(tmp_path / "out")]) == 1
    assert said in capsys.readouterr().err


def test_a_model_of_unknown_size_gets_none() -> None:
    assert size_of(nn.Linear(2, 2)) is None


def test_the_size_is_without_embeddings_head_and_adapters() -> None:
    for tied in (True, False):
        config = LlamaConfig(
            vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            tie_word_embeddings=tied,
        )  # fmt: skip
        model = LlamaForCausalLM(config)
        expected = sum(p.numel() for p in model.model.layers.parameters()) + model.model.norm.weight.numel()
        assert size_of(model) == expected
        attach(model, LoRA(rank=2))
        assert size_of(model) == expected
