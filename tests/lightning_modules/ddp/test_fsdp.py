"""Shards (FSDP2) on two gloo processes equal one process on the same global batch, in float32; full tuning goes on 2 → 4 → 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lightning_modules.ddp.processes import run_script

pytestmark = [pytest.mark.ddp, pytest.mark.slow]


def mean_losses(ranks: list[dict[str, Any]], case: str) -> list[float]:
    """Of each step, over the processes."""
    return [sum(step) / len(step) for step in zip(*(rank[case]["losses"] for rank in ranks), strict=True)]


def weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint."""
    state: dict[str, torch.Tensor] = torch.load(file, weights_only=False)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("network.") and value.is_floating_point()}


def test_two_processes_equal_one_and_a_run_goes_on_with_four_and_with_one(tmp_path: Path) -> None:
    cases = "lora,dpo,sora,full"
    one, two = run_script("fsdp_script.py", 1, tmp_path, cases), run_script("fsdp_script.py", 2, tmp_path, cases)
    for case in ("lora", "dpo", "sora"):
        assert mean_losses(two, case) == pytest.approx(one[0][case]["losses"], rel=1e-6), case
        # Sums over tokens and rows are float32, in another order.
        assert two[0][case]["metrics"] == pytest.approx(one[0][case]["metrics"], rel=1e-5, nan_ok=True), case
        # What is trained lies in the file whole, and the frozen base does not.
        mine, theirs = weights(tmp_path / f"{case}-one.ckpt"), weights(tmp_path / f"{case}.ckpt")
        assert mine.keys() == theirs.keys() and not any(name.endswith("proj.weight") for name in theirs)
        assert two[0][case]["bytes"]["weights"] < 0.75 * one[0][case]["bytes"]["weights"]
    assert two[0]["sora"]["live"] == two[1]["sora"]["live"] == one[0]["sora"]["live"]
    assert 0 < sum(one[0]["sora"]["live"]) < 4 * len(one[0]["sora"]["live"]), "some ranks retired, and some did not"
    for name, held in two[0]["full"]["bytes"].items():
        assert held == pytest.approx(one[0]["full"]["bytes"][name] / 2, rel=0.02)

    four = run_script("fsdp_script.py", 4, tmp_path, "go-on")
    last = run_script("fsdp_script.py", 1, tmp_path, "go-on")
    straight = one[0]["full"]["losses"]
    found = [*mean_losses(two, "full"), *mean_losses(four, "go-on"), *last[0]["go-on"]["losses"]]
    assert len(straight) == 6 and found == pytest.approx(straight, rel=1e-6)
    ended = weights(tmp_path / "full.ckpt")
    for name, value in weights(tmp_path / "full-one.ckpt").items():
        # A step of AdamW is up to 1e-3, also where a gradient is hardly more than what rounding leaves of it.
        assert torch.allclose(ended[name], value, rtol=1e-4, atol=3e-5), name
