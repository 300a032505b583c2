"""The sparse entries: every contender of a small workload is correct, and a contender made wrong is caught."""

from __future__ import annotations

import pytest
import torch

from benchmarks import run
from benchmarks.contenders import models
from benchmarks.speed import sparse, sparse_steps
from fulgurite.kernels.sparse import gradient as sparse_gradient


def verdicts(benchmark, workload):
    runnable = {name: prepare for name, prepare in workload.contenders.items() if not isinstance(prepare, str)}
    return {name: run.check(benchmark, prepare(workload.base())) for name, prepare in runnable.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("density", [0.001, 0.02, 0.3], ids=str)
def test_linear_contenders_are_right(dtype, density):
    found = verdicts(sparse.LINEAR, sparse._linear_workload(sparse.SparseCase(96, 80, 120, density, dtype)))
    assert not [name for name, row in found.items() if row["wrong"]], found
    pytest.importorskip("peft")
    assert {"frozen", "plain torch", "PEFT SHiRA", "fulgurite"} <= found.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_method_is_right(dtype):
    found = verdicts(sparse.GRADIENT, sparse._gradient_workload(sparse.SparseCase(600, 80, 120, 0.02, dtype)))
    assert not [name for name, row in found.items() if row["wrong"]], found
    assert {"whole", "dots", "sampled", "dense", "fulgurite"} == found.keys()


def test_a_wrong_gradient_is_refused(monkeypatch):
    right = sparse_gradient.by_method
    monkeypatch.setattr(sparse_gradient, "by_method", lambda *args: right(*args) * 1.01)
    case = sparse.SparseCase(64, 32, 32, 0.1, torch.float32)
    found = verdicts(sparse.LINEAR, sparse._linear_workload(case))
    assert found["fulgurite"]["wrong"] and not found["plain torch"]["wrong"]


def test_step_contenders_are_right_before_and_behind_steps():
    pytest.importorskip("transformers")
    workload = sparse_steps._workload(models.ModelCase("llama", 1, 2, 24, 0, torch.float32, hidden=64))
    for name, prepare in workload.contenders.items():
        if isinstance(prepare, str):
            continue
        made = prepare(workload.base())
        assert not run.check(sparse_steps.SPARSE_LLAMA, made)["wrong"], name
        made.run()
        made.run()
        assert not run.check(sparse_steps.SPARSE_LLAMA, made)["wrong"], name


def test_a_step_moves_the_live_weights_only_where_they_are_trained():
    pytest.importorskip("transformers")
    case = models.ModelCase("llama", 1, 2, 24, 0, torch.float32, hidden=64)
    base = models.make_base(case)
    before = {name: p.detach().clone() for name, p in base.model.named_parameters()}
    step = sparse_steps._prepare("fulgurite", case, base)
    step.run()
    moved = {n: (p != before[n]).float().mean().item() for n, p in base.model.named_parameters() if n in before}
    projections = [name for name in moved if name.endswith("_proj.weight")]
    assert len(projections) == 7 and all(0 < moved[name] <= 0.0055 for name in projections)
    assert not any(share for name, share in moved.items() if name not in projections)
