"""UltraFuser on two processes (gloo) equals one on the same global batch, before and behind the switch to stage 2."""

from __future__ import annotations

import pytest

from tests.lightning_modules.ddp.processes import run_script
from tests.lightning_modules.fuser_cases import write_rows, write_specialist


@pytest.mark.ddp
@pytest.mark.slow
def test_two_processes_equal_one_in_both_stages(tmp_path):
    for seed, name in enumerate(("text", "code", "maths")):
        write_specialist(tmp_path / name, seed)
    write_rows(tmp_path / "rows")
    (one,), two = run_script("ddp_fuser_script.py", 1, tmp_path), run_script("ddp_fuser_script.py", 2, tmp_path)
    together = [sum(pair) / 2 for pair in zip(two[0]["losses"], two[1]["losses"], strict=True)]
    assert len(together) == 14, "three steps of the gate, four of everything, two batches each"
    assert together == pytest.approx(one["losses"], rel=1e-9)
    for name, values in one["weights"].items():
        for rank in two:
            assert rank["weights"][name] == pytest.approx(values, rel=1e-6, abs=1e-9), name
    for name, value in one["metrics"].items():
        assert two[0]["metrics"][name] == pytest.approx(value, rel=1e-5), name
