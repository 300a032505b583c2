"""Benchmarks at the end of Lightning's test and validation: the numbers of `fulgurite evaluate`, on the weights that are tested."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from fulgurite.cli import main
from fulgurite.datamodules import GLUEDataModule, SFTDataModule
from fulgurite.lightning_modules import ClassificationModule, SFTModule, TaskEvaluation


@pytest.fixture
def rows(tmp_path: Path) -> str:
    """Choices whose right answers are known."""
    row = {"goal": "Open the door", "sol1": "push it", "sol2": "eat it", "label": 0}
    (tmp_path / "piqa.jsonl").write_text("".join(json.dumps({**row, "label": i % 2}) + "\n" for i in range(4)))
    return str(tmp_path / "piqa.jsonl")


def trainer(folder: Path, *callbacks: Any, **options: Any) -> Trainer:
    return Trainer(
        accelerator="cpu", max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, num_sanity_val_steps=0, callbacks=list(callbacks),
        limit_val_batches=1, limit_test_batches=1, **options,
    )  # fmt: skip


def test_the_numbers_are_those_of_the_command(tmp_path: Path, rows: str) -> None:
    paths = {"gsm8k": "builtin", "piqa": rows}
    asked = TaskEvaluation("gsm8k,piqa", paths, limit=4, max_new_tokens=24)
    data = SFTDataModule("builtin", limit_train=16, batch_size=2, max_length=256, cache_dir=str(tmp_path / "cache"))
    run = trainer(tmp_path / "run", asked)
    module = SFTModule("playground", dtype="float32")
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "one.ckpt")
    (found,) = run.test(module, data, verbose=False)
    words = [
        "evaluate",
        "--model",
        str(tmp_path / "one.ckpt"),
        "--tasks",
        "gsm8k,piqa",
        "--path",
        f"gsm8k=builtin,piqa={rows}",
    ]
    assert main([*words, "--limit", "4", "--max_new_tokens", "24", "--out", str(tmp_path / "out")]) == 0
    expected = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    (folder,) = (tmp_path / "run" / "evaluation").glob("step-1-*")
    written = json.loads((folder / "results.json").read_text())
    for task in paths:
        for metric, number in expected[task]["numbers"].items():
            assert found[f"test_{task}_{metric}"] == pytest.approx(number["value"], abs=1e-6)
        assert written[task]["numbers"] == expected[task]["numbers"]
        texts = [
            [json.loads(line) for line in (place / task / "samples.jsonl").read_text().splitlines()[1:]]
            for place in (folder, tmp_path / "out")
        ]
        assert texts[0] == texts[1] and len(texts[0]) == 4


def test_after_each_validation_on_the_weights_of_that_step(tmp_path: Path, rows: str) -> None:
    asked = TaskEvaluation(["piqa"], rows, when="validation", out=str(tmp_path / "asked"))
    data = SFTDataModule("builtin", limit_train=16, batch_size=2, max_length=256, cache_dir=str(tmp_path / "cache"))
    fit = trainer(tmp_path, asked, val_check_interval=1)
    fit.fit(
        SFTModule("playground", learning_rate=1e-2, lr_schedule="constant", warmup_ratio=0.0, dtype="float32"), data
    )
    assert float(fit.callback_metrics["val_piqa_acc"]) == asked.results[0].numbers["acc"].value
    (after,) = (tmp_path / "asked").glob("step-1-*/piqa/samples.jsonl")
    samples = after.read_text().splitlines()
    other = TaskEvaluation(["piqa"], rows, when="validation", out=str(tmp_path / "base"))
    trainer(tmp_path, other).validate(SFTModule("playground", dtype="float32"), data, verbose=False)
    (base,) = (tmp_path / "base").glob("step-0-*/piqa/samples.jsonl")
    before = base.read_text().splitlines()
    assert len(samples) == len(before) == 5 and samples[1] != before[1] and samples[0] != before[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": "gsm9k"}, "no task 'gsm9k'. Did you mean 'gsm8k'?"),
        ({"tasks": ""}, "no tasks were given"),
        ({"tasks": "gsm8k", "n": 0}, "n=0; give 1 or more"),
        ({"tasks": "gsm8k", "n": 2, "temperature": 0.0}, "the same answer 2 times"),
        ({"tasks": "gsm8k", "path": {"piqa": "x"}}, "a path for piqa, which is none of the tasks gsm8k"),
    ],
)
def test_options_out_of_range(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        TaskEvaluation(**options)


def test_rows_that_are_missing_are_named_before_the_training(tmp_path: Path) -> None:
    data = SFTDataModule("builtin", limit_train=16, cache_dir=str(tmp_path / "cache"))
    with pytest.raises((ValueError, FileNotFoundError), match="nowhere"):
        trainer(tmp_path, TaskEvaluation("gsm8k", "nowhere.jsonl")).fit(SFTModule("playground"), data)


def test_a_network_that_writes_no_text_is_refused(tmp_path: Path) -> None:
    data = GLUEDataModule("sst2", path="builtin", limit_train=16, cache_dir=str(tmp_path / "cache"))
    asked = TaskEvaluation("gsm8k", "builtin", when="validation", limit=1)
    with pytest.raises(ValueError, match="ClassificationModule has no `network` that writes text"):
        trainer(tmp_path, asked).fit(ClassificationModule("playground"), data)
