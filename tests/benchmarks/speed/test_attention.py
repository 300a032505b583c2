"""The entry ``tree_attention``: every form of a small tree is right, and a wrong one is caught."""

from __future__ import annotations

import pytest
import torch

from benchmarks import run
from benchmarks.harness.registry import OURS, Settings
from benchmarks.speed import attention

CASE = attention.Case(4, 2, 16, torch.float32, 20)


@pytest.mark.parametrize("form", attention._FORMS)
def test_every_form_is_right(form):
    step = attention.prepare(form, CASE, attention._Tree(CASE))
    assert not run.check(attention.BENCHMARK, step)["wrong"]
    step.run()
    assert not run.check(attention.BENCHMARK, step)["wrong"]


def test_the_tree_is_shorter_than_its_paths():
    tokens = {form: attention.prepare(form, CASE, attention._Tree(CASE)).facts()["tokens"] for form in attention._FORMS}
    assert tokens[OURS] < 0.4 * tokens["paths packed"] and tokens["paths packed"] == tokens["paths padded"]
    (workload,) = attention.BENCHMARK.workloads(Settings("cuda"))
    assert workload.facts["sees"] < workload.facts["tokens"] ** 2 / 2


def test_a_path_that_sees_its_sibling_is_refused(monkeypatch):
    right = attention.attend

    def everything(q, k, v, segments, rule):
        return right(q, k, v, attention.Segments(torch.tensor([0, q.shape[2]])), rule)

    monkeypatch.setattr(attention, "attend", everything)
    assert run.check(attention.BENCHMARK, attention.prepare(OURS, CASE, attention._Tree(CASE)))["wrong"]
