"""The entry ``log_probs``: every contender is right on a small case, and a kernel made wrong is caught."""

from __future__ import annotations

import pytest
import torch

from benchmarks import run
from benchmarks.harness.registry import Settings
from benchmarks.speed import log_probs
from fulgurite.kernels.log_probs import blocks as log_probs_blocks


@pytest.mark.parametrize("trained", [True, False], ids=["trained", "frozen"])
@pytest.mark.parametrize("scalar", [True, False], ids=["loss", "log-probs"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_contenders_are_right(dtype, scalar, trained):
    workload = log_probs._workload(log_probs.Case(600, 16, 200, dtype, scalar, trained))
    made = {name: p for name, p in workload.contenders.items() if not isinstance(p, str)}
    found = {name: run.check(log_probs.BENCHMARK, prepare(workload.base())) for name, prepare in made.items()}
    wrong = {name: row for name, row in found.items() if row["wrong"]}
    assert not wrong and {"plain torch", "TRL before 1.14", "fulgurite"} <= found.keys()


@pytest.mark.parametrize("scalar", [True, False], ids=["loss", "log-probs"])
def test_a_wrong_kernel_is_refused(scalar, monkeypatch):
    right = log_probs_blocks._Tokens.target_weight
    monkeypatch.setattr(log_probs_blocks._Tokens, "target_weight", lambda self: right(self) * 1.01)
    case = log_probs.Case(64, 16, 50, torch.float32, scalar, True)
    assert run.check(log_probs.BENCHMARK, log_probs.prepare("fulgurite", case, log_probs._Batch(case)))["wrong"]
    assert not run.check(log_probs.BENCHMARK, log_probs.prepare("plain torch", case, log_probs._Batch(case)))["wrong"]


def test_workloads_of_both_devices():
    names = [w.name for w in log_probs.BENCHMARK.workloads(Settings())]
    assert len(names) == 4 and "2048x512x32000 fp32 loss, head trained" in names
    assert len(log_probs.BENCHMARK.workloads(Settings("cuda"))) == 8
    first = log_probs.BENCHMARK.workloads(Settings())[0]
    assert first.contenders["Liger"] == "gives the loss only"
