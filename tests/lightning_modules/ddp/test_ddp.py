"""Two DDP processes (gloo) equal one process on the same global batch, before and after ranks retire."""

from __future__ import annotations

import pytest

from tests.lightning_modules.ddp.processes import run_script


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_equal_one(plain_bert, tmp_path):
    (one,) = run_script("ddp_script.py", 1, tmp_path, plain_bert)
    two = run_script("ddp_script.py", 2, tmp_path, plain_bert)
    together = [sum(pair) / 2 for pair in zip(two[0]["losses"], two[1]["losses"], strict=True)]
    assert len(together) == 24, "61 rows in batches of 8, three epochs"
    assert together == pytest.approx(one["losses"], rel=1e-9)
    assert one["live"] == two[0]["live"] == two[1]["live"]
    assert 0 < sum(one["live"]) < 48, "some ranks retired on the way, and some did not"
    # One process cuts retired ranks out at once; DDP keeps the parameters' size and zeroes them.
    for ours, theirs, live in zip(one["gates"], two[0]["gates"], one["live"], strict=True):
        assert len(ours) == live
        assert theirs == pytest.approx(ours + [0.0] * (len(theirs) - live), rel=1e-7, abs=1e-9)
    # torchmetrics keeps its sums in float32, also in a float64 run: 9e-8 was seen.
    assert two[0]["val_loss"] == pytest.approx(one["val_loss"], rel=1e-6)
    assert two[0]["accuracy"] == pytest.approx(one["accuracy"])
