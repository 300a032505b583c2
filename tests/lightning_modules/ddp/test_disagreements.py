"""Two processes that differ are made equal or stop with an error; none waits for the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lightning_modules.ddp.processes import alone, run_script

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def test_weights_that_differ_after_the_first_step_stop_the_run(tmp_path: Path) -> None:
    for rank in run_script("ddp_disagree_script.py", 2, tmp_path, "weights"):
        assert "the 2 processes hold different weights (1 of " in rank["error"]


def test_positions_chosen_from_scores_are_the_first_processs(tmp_path: Path) -> None:
    first, second = run_script("ddp_disagree_script.py", 2, tmp_path, "positions")
    assert first["error"] == second["error"] == ""
    assert first["positions"] == second["positions"] and sum(map(len, first["positions"].values())) == 50


def test_a_reference_cached_on_one_node_only_is_computed_by_both(tmp_path: Path) -> None:
    run_script("ddp_disagree_script.py", 1, tmp_path, "cache")
    assert list((tmp_path / "disk1").rglob("reference/*.safetensors"))
    first, second = run_script("ddp_disagree_script.py", 2, tmp_path, "cache")
    assert first["error"] == second["error"] == ""
    assert list((tmp_path / "disk0").rglob("reference/*.safetensors"))


def test_a_process_that_is_only_stopped_ends_the_run_with_a_message(tmp_path: Path) -> None:
    number = tmp_path / "pid"
    words = "fit --model ClassificationModule --model.backbone playground --data GLUEDataModule --data.task sst2"
    words += " --data.path builtin"
    words += (
        " --data.splits train --data.limit_train 80 --data.batch_size 4 --trainer.accelerator cpu --trainer.devices 2"
    )
    words += " --trainer.strategy ddp --trainer.enable_progress_bar false --trainer.max_epochs 1 --process_timeout 30"
    words += (
        f" --trainer.default_root_dir {tmp_path} --trainer.callbacks+ tests.lightning_modules.ddp.stopped.StopsItself"
    )
    words += f" --trainer.callbacks.file {number}"
    said = tmp_path / "said.txt"
    with open(said, "w") as stream:  # a pipe would stay open as long as the stopped process lives
        running = subprocess.Popen(
            [sys.executable, "-m", "fulgurite", *words.split()], env=alone(tmp_path), stdout=stream, stderr=stream
        )
        try:
            code = running.wait(timeout=200)
        finally:
            running.kill()
            if number.is_file():
                os.kill(int(number.read_text()), signal.SIGKILL)
    assert code == 1, said.read_text()
    assert "this process waited for another one of the run until --process_timeout was over" in said.read_text()
    assert "Traceback" not in said.read_text()
