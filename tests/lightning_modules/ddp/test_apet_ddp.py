"""Two DDP processes (gloo) choose the same positions as one, train to the same losses, and score each row once."""

from __future__ import annotations

import pytest

from tests.lightning_modules.ddp.processes import run_script


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("sst2", "val_accuracy"), ("nq_open", "val_token_f1")])
def test_two_processes_equal_one(tmp_path, task, metric):
    (one,) = run_script("ddp_apet_script.py", 1, tmp_path, task)
    two = run_script("ddp_apet_script.py", 2, tmp_path, task)
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
