"""Two DDP processes (gloo) choose the same positions as one, train to the same losses, and score each row once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(devices: int, task: str, out: Path) -> list[dict]:
    script = Path(__file__).with_name("ddp_apet_script.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FULGURITE_CACHE": str(out / "cache")}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    command = [sys.executable, str(script), str(devices), task, str(out)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((out / f"{devices}-{rank}.json").read_text()) for rank in range(devices)]


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("sst2", "val_accuracy"), ("nq_open", "val_token_f1")])
def test_two_processes_equal_one(tmp_path, task, metric):
    (one,) = run(1, task, tmp_path)
    two = run(2, task, tmp_path)
    assert two[0]["positions"] == two[1]["positions"] == one["positions"]
    assert sum(len(places) for places in one["positions"].values()) == 800
    together = [sum(pair) / 2 for pair in zip(two[0]["losses"], two[1]["losses"], strict=True)]
    assert len(together) == 16 and together == pytest.approx(one["losses"], rel=1e-9)
    for ours, theirs, other in zip(one["deltas"], two[0]["deltas"], two[1]["deltas"], strict=True):
        assert theirs == other == pytest.approx(ours, rel=1e-6, abs=1e-9)
    # torchmetrics keeps its sums in float32.
    assert metric in one["metrics"]
    for name, value in one["metrics"].items():
        assert two[0]["metrics"][name] == pytest.approx(value, rel=1e-6)
