"""What the terminal says of a run: its steps, why it ended, whose loss stands there, and samples before the first step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fulgurite.cli import main
from fulgurite.commands.fit.progress import StepsProgressBar

WORDS = [
    "fit", "--model", "ClassificationModule", "--model.backbone", "playground", "--model.adapter", "LoRA",
    "--data", "GLUEDataModule", "--data.task", "sst2", "--data.path", "builtin", "--data.splits", "train",
    "--data.limit_train", "40", "--data.batch_size", "8", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "2",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_an_early_stop_is_said_and_the_loss_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stop = ["--trainer.callbacks+", "EarlyStopping", "--trainer.callbacks.monitor", "val_loss"]
    stop += ["--trainer.callbacks.patience", "1", "--trainer.callbacks.min_delta", "100"]
    more = [
        "--trainer.default_root_dir",
        str(tmp_path),
        "--trainer.max_epochs",
        "9",
        "--trainer.enable_progress_bar",
        "false",
    ]
    assert main([*WORDS, *more, *stop]) == 0
    said = capsys.readouterr().out
    assert "stopped early: " in said and "val_loss" in said.split("stopped early: ")[1]
    assert "train_loss of the last batch" in said


@pytest.mark.filterwarnings("ignore")
def test_max_steps_alone_shows_no_number_of_epochs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[str] = []
    original = StepsProgressBar._get_train_description

    def note(self: StepsProgressBar, epoch: int) -> str:
        described.append(original(self, epoch))
        return described[-1]

    monkeypatch.setattr(StepsProgressBar, "_get_train_description", note)
    assert main([*WORDS, "--trainer.default_root_dir", str(tmp_path), "--trainer.max_steps", "2"]) == 0
    assert {text.strip() for text in described} == {"Epoch 0"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_samples_are_taken_before_the_first_step(tmp_path: Path) -> None:
    words = [
        "fit",
        "--model",
        "SFTModule",
        "--model.backbone",
        "playground",
        "--model.adapter",
        "LoRA",
        "--data",
        "UltraLinkDataModule",
    ]
    words += [
        "--data.path",
        "builtin",
        "--data.limit_train",
        "20",
        "--data.batch_size",
        "1",
        "--data.max_length",
        "256",
    ]
    words += ["--trainer.accelerator", "cpu", "--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"]
    words += ["--trainer.enable_progress_bar", "false", "--trainer.default_root_dir", str(tmp_path)]
    assert main([*words, "--trainer.val_check_interval", "2"]) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert steps[0] == 0 and steps[-1] == 2
