"""Every recipe is parsed and run for two steps, in process, on the playground's backbone and built-in rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fulgurite.cli import main

CONFIGS = sorted(Path(__file__).resolve().parent.parent.joinpath("configs").rglob("*.yaml"))
CPSFT = next(path for path in CONFIGS if path.name == "cpo_playground_cpsft.yaml")


@pytest.mark.slow
@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_recipe_runs_two_steps(path, tmp_path, capsys):
    words = ["fit", "--config", str(path), "--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    words += ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.logger", "false"]
    words += ["--trainer.enable_progress_bar", "false", "--model.backbone", "playground", "--data.batch_size", "4"]
    words += ["--data.max_length", "48"]
    content = yaml.safe_load(path.read_text())
    data = content["data"]["class_path"]
    words += ["--data.train_path" if data == "FilesDataModule" else "--data.path", "builtin"]
    if data not in ("FilesDataModule", "GLUEDataModule", "PETTasksDataModule"):  # conversations are never cut
        words[words.index("48")] = "512"
        words += ["--data.limit_train", "60", "--trainer.num_sanity_val_steps", "0", "--model.dtype", "float32"]
        words += ["--trainer.accumulate_grad_batches", "1", "--trainer.val_check_interval", "1.0"]
    if content["model"]["class_path"] == "UltraFuserModule":
        words += ["--model.specialists", "[playground-text, playground-code, playground-maths]"]
        words += ["--data.evol_instruct", "null", "--data.math_instruct", "null"]
    if str(content["model"]["init_args"].get("init_adapter", "playground")).startswith(
        "runs/"
    ):  # a second stage, which begins with the weights of a first
        begun = [w.replace(str(path), str(CPSFT)).replace(str(tmp_path), str(tmp_path / "first")) for w in words]
        assert main(begun) == 0, capsys.readouterr()
        words += ["--model.init_adapter", str(tmp_path / "first" / "checkpoints" / "last.ckpt")]
    if content["model"]["init_args"].get("schedule"):  # stages are counted in epochs
        words = [w for w in words if w not in ("--trainer.max_steps", "2")]
        words += [
            "--trainer.max_epochs",
            "7",
            "--model.stage_epochs",
            "1",
            "--data.limit_train",
            "8",
            "--model.l1",
            "0",
        ]
    if (
        content["data"]["class_path"] == "FilesDataModule"
        and content["data"]["init_args"].get("task_type") == "causal_lm"
    ):
        words += ["--data.documents", "200"]
    assert main(words) == 0, capsys.readouterr()
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_recipe_opens_with_its_command_machine_time_and_memory(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    assert (
        f"fulgurite fit  --config {path.relative_to(path.parents[1 if path.parent.name == 'configs' else 2])}" in head
    )
    assert all(word in head for word in ("Machine:", "Time", "eak memory"))
