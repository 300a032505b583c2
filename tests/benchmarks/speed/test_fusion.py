"""The entry ``fusion``: every contender is right on a small case, and a kernel made wrong is caught."""

from __future__ import annotations

import pytest
import torch

from benchmarks import run
from benchmarks.harness.registry import Settings
from benchmarks.speed import fusion
from fulgurite.kernels.fusion import blocks as fused_blocks

KINDS = pytest.mark.parametrize("kind", ["gate", "hidden", "shared"])


@KINDS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_contenders_are_right(dtype, kind):
    workload = fusion._workload(fusion.Case(300, 16, 200, 3, dtype, kind))
    found = {
        name: run.check(fusion.BENCHMARK, prepare(workload.base())) for name, prepare in workload.contenders.items()
    }
    assert not [name for name, row in found.items() if row["wrong"]] and set(found) == {
        fusion.FLOOR,
        fusion.NAIVE,
        "fulgurite",
    }


def test_a_wrong_gradient_of_the_gate_is_refused(monkeypatch):
    right = fused_blocks._Blend.finish
    monkeypatch.setattr(fused_blocks._Blend, "finish", lambda self: right(self) * 1.01)
    case = fusion.Case(64, 16, 50, 3, torch.float32, "gate")
    assert run.check(fusion.BENCHMARK, fusion.prepare("fulgurite", case, fusion._Batch(case)))["wrong"]
    assert not run.check(fusion.BENCHMARK, fusion.prepare(fusion.NAIVE, case, fusion._Batch(case)))["wrong"]


def test_workloads_of_both_devices():
    names = [w.name for w in fusion.BENCHMARK.workloads(Settings())]
    assert names[0] == "3 x 512x512x32000 fp32, gate trained" and len(names) == 3
    assert len(fusion.BENCHMARK.workloads(Settings("cuda"))) == 6
