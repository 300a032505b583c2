"""UltraFuser on two processes (gloo) equals one on the same global batch, before and behind the switch to stage 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuser_cases import write_rows, write_specialist


def run(devices: int, out: Path) -> list[dict]:
    script = Path(__file__).with_name("ddp_fuser_script.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "FULGURITE_CACHE": str(out / "cache")}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, str(script), str(devices), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return [json.loads((out / f"{devices}-{rank}.json").read_text()) for rank in range(devices)]


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_equal_one_in_both_stages(tmp_path):
    for seed, name in enumerate(("text", "code", "maths")):
        write_specialist(tmp_path / name, seed)
    write_rows(tmp_path / "rows")
    (one,), two = run(1, tmp_path), run(2, tmp_path)
    together = [sum(pair) / 2 for pair in zip(two[0]["losses"], two[1]["losses"], strict=True)]
    assert len(together) == 14, "three steps of the gate, four of everything, two batches each"
    assert together == pytest.approx(one["losses"], rel=1e-9)
    for name, values in one["weights"].items():
        for rank in two:
            assert rank["weights"][name] == pytest.approx(values, rel=1e-6, abs=1e-9), name
    for name, value in one["metrics"].items():
        assert two[0]["metrics"][name] == pytest.approx(value, rel=1e-5), name
