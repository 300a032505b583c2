"""Checkpoints made in Python and by the command line serve both; a killed command goes on where it was."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from fulgurite.adapters import LoRA, SoRA
from fulgurite.callbacks import AdapterCheckpoint, RandomState
from fulgurite.cli import main
from fulgurite.datamodules import GLUEDataModule
from fulgurite.lightning_modules import ClassificationModule, SoRAModule
from tests import forking

DATA = "--data GLUEDataModule --data.path builtin --data.splits train --data.limit_train 48 --data.batch_size 8".split()
QUIET = "--trainer.enable_progress_bar false --trainer.accelerator cpu --trainer.logger false".split()


def rows() -> GLUEDataModule:
    return GLUEDataModule("sst2", path="builtin", splits="train", limit_train=48, batch_size=8)


def python_fit(module, folder: Path) -> Trainer:
    callbacks = [AdapterCheckpoint(), RandomState(), ModelCheckpoint(dirpath=folder / "checkpoints", save_last=True)]
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(max_epochs=1, callbacks=callbacks, default_root_dir=folder, limit_val_batches=1, **options)
    trainer.fit(module, rows())
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: SoRAModule("playground", rank=4, learning_rate=3e-3), ["SoRAModule"]),
        (lambda: ClassificationModule("playground", adapter=LoRA(rank=4)), ["ClassificationModule"]),
    ],
    ids=["SoRAModule", "ClassificationModule"],
)
def test_the_command_line_tests_and_resumes_what_python_made(make, words, tmp_path, capsys):
    seed_everything(0)
    trainer = python_fit(make(), tmp_path)
    expected = trainer.test(datamodule=rows(), verbose=False)[0]["test_accuracy"]
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    model = ["--model", words[0], "--model.backbone", "playground", "--trainer.default_root_dir", str(tmp_path / "cli")]
    assert main(["test", *model, *DATA, *QUIET, "--ckpt_path", path]) == 0
    assert f"{expected:.4f}"[:5] in capsys.readouterr().out
    assert main(["fit", *model, *DATA, *QUIET, "--ckpt_path", path, "--trainer.max_epochs", "2"]) == 0
    last = torch.load(tmp_path / "cli" / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["global_step"] == 12, "six steps before, six after"


@pytest.mark.slow
def test_python_loads_and_resumes_what_the_command_line_made(tmp_path):
    model = (
        "--model ClassificationModule --model.backbone playground --model.adapter SoRA --model.adapter.rank 3".split()
    )
    root = ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", *model, *DATA, *QUIET, *root, "--trainer.max_epochs", "1"]) == 0
    path = tmp_path / "checkpoints" / "last.ckpt"
    module = ClassificationModule.load_from_checkpoint(path)
    assert isinstance(module.adapter_config, SoRA) and module.adapter_config.rank == 3 and module.num_labels == 2
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    fresh = ClassificationModule("playground", adapter=SoRA(rank=3))
    trainer = Trainer(max_epochs=2, callbacks=[AdapterCheckpoint(), RandomState()], limit_val_batches=0, **options)
    trainer.fit(fresh, rows(), ckpt_path=path)
    assert trainer.global_step == 12


def losses(folder: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for path in sorted(folder.glob("**/metrics.csv"), key=lambda p: p.stat().st_mtime):
        for row in csv.DictReader(path.open()):
            if row.get("train_loss"):
                found[int(row["step"])] = row["train_loss"]
    return found


@pytest.mark.slow
def test_a_command_killed_in_the_middle_of_an_epoch_goes_on_to_the_same_losses(tmp_path):
    """SIGKILL between two checkpoints of the second epoch; the log of the resumed command equals the undisturbed one's."""
    model = (
        "--model SoRAModule --model.backbone playground --model.dropout 0.1 --model.threshold 0.02 --model.patience 2"
    )
    model += " --model.look_every 2 --model.learning_rate 3e-3"
    trainer = "--trainer.max_epochs 3 --trainer.log_every_n_steps 1 --trainer.limit_val_batches 1"
    trainer += " --trainer.enable_progress_bar false --trainer.accelerator cpu --trainer.callbacks ModelCheckpoint"
    trainer += " --trainer.callbacks.every_n_train_steps 1 --trainer.callbacks.save_last true"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def command(folder: Path, *more: str) -> list[str]:
        words = [*model.split(), *trainer.split(), "--trainer.callbacks.dirpath", str(folder / "checkpoints")]
        words += ["--trainer.default_root_dir", str(folder), *DATA, "--data.limit_train", "120", *more]
        return ["-m", "fulgurite", "fit", *words]

    straight, broken = tmp_path / "straight", tmp_path / "broken"
    forking.run(command(straight), environment, check=True)
    process = forking.popen(command(broken), environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = broken / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline and process.poll() is None:
        if last.is_file() and step_of(last) >= 20:
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = step_of(last)
    assert 20 <= done < 45, "the process was killed in its second or third epoch"
    forking.run(command(broken, "--ckpt_path", str(last)), environment, check=True)
    expected, got = losses(straight), losses(broken)
    after = {step: loss for step, loss in expected.items() if step >= done}
    assert len(after) == 45 - done and {step: got[step] for step in after} == after


def step_of(path: Path) -> int:
    try:
        return int(torch.load(path, weights_only=True)["global_step"])
    except (OSError, RuntimeError, EOFError, KeyError, ValueError):
        return 0  # being replaced right now
