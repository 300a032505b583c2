"""One process of a run raises or is killed: the others end in under a minute, and say why."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.lightning_modules.ddp.processes import started

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def fit(out: Path, data: str, *more: str) -> tuple[list[int], list[str], float]:
    """Exit codes of two processes, what they said, and when the last one ended."""
    words = f"-m fulgurite fit --model ClassificationModule --model.backbone playground --data {data} --data.task sst2"
    words += (
        " --data.path builtin --data.splits train --data.limit_train 80 --data.batch_size 4 --trainer.accelerator cpu"
    )
    words += " --trainer.devices 2 --trainer.strategy ddp --trainer.enable_progress_bar false --trainer.max_epochs 1"
    words += f" --trainer.default_root_dir {out / 'run'}"
    running, said = started([*words.split(), *more], 2, out)
    try:
        codes = [each.wait(timeout=240) for each in running]
    finally:
        for each in running:
            each.kill()
    return codes, [file.read_text() for file in said], time.time()


def test_an_error_of_one_process_is_told_by_the_others(tmp_path: Path) -> None:
    codes, (_, second), _ = fit(tmp_path, "tests.lightning_modules.processes.failing.BadRows")
    assert codes == [1, 1]
    last = second.strip().splitlines()[-1]
    assert last.startswith("fulgurite: error: process 0 of 2 (pid ")
    assert last.endswith(") ended the run: ValueError: row 17 of train.jsonl has no label")
    assert "Traceback" not in second


def test_a_killed_process_ends_the_others_wherever_they_are(tmp_path: Path) -> None:
    moment = tmp_path / "moment"
    more = (
        "--trainer.callbacks+",
        "tests.lightning_modules.processes.failing.Killed",
        "--trainer.callbacks.file",
        str(moment),
    )
    codes, (first, _), ended = fit(tmp_path, "GLUEDataModule", *more)
    assert codes == [1, -9]
    assert ended - float(moment.read_text()) < 60
    assert "fulgurite: error: process 1 of 2 (pid " in first and "ended without a word: it was killed" in first
