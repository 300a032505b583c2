"""RLModule on two processes draws, rewards and trains as one process does on the same prompts; an error stops both."""

from __future__ import annotations

import pytest

from tests.lightning_modules.ddp.processes import run_script


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    (one,) = run_script("ddp_rl_script.py", 1, tmp_path)
    two = run_script("ddp_rl_script.py", 2, tmp_path)
    for name, alone in one.items():
        for rank in two:
            mine = rank[name]
            assert mine["losses"] == pytest.approx(alone["losses"], rel=1e-6, abs=1e-9), name
            assert mine["weights"] == pytest.approx(alone["weights"], rel=1e-7), name
            assert mine["steps"] == alone["steps"]
            # Lightning keeps what is logged in float32.
            for ours, theirs in zip(mine["figures"], alone["figures"], strict=True):
                assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6, nan_ok=True), name
            assert mine["metrics"] == pytest.approx(alone["metrics"], rel=1e-6)
    assert len(one["group"]["losses"]) == 3 and one["group"]["steps"] > 3, (
        "9 prompts in batches of 4, several steps on each"
    )
    betas = [figures["train_beta"] for figures in one["group"]["figures"]]
    assert betas[0] != betas[-1], "the weight of KL has moved"
    assert one["reinforce"]["steps"] < one["group"]["steps"], "KL was above its bound"
