"""The entries: every contender of a small workload is correct, and a contender made wrong is caught."""

from __future__ import annotations

import pytest
import torch

from benchmarks import run
from benchmarks.contenders import models
from benchmarks.harness.registry import Settings, largest_error, norm_error
from benchmarks.speed import gates, linear, preference, reward, steps, training
from fulgurite.kernels.low_rank import gated_lora


def contenders(workload):
    return {name: prepare for name, prepare in workload.contenders.items() if not isinstance(prepare, str)}


def verdicts(benchmark, workload):
    return {name: run.check(benchmark, prepare(workload.base())) for name, prepare in contenders(workload).items()}


@pytest.mark.parametrize("gated", [True, False], ids=["gated", "lora"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_linear_contenders_are_right(dtype, gated):
    workload = linear._workload(linear.Case(96, 40, 56, 4, dtype, gated))
    found = verdicts(linear.BENCHMARK, workload)
    assert not [name for name, row in found.items() if row["wrong"]], found
    expected = {"frozen", "plain torch", "fulgurite"}
    pytest.importorskip("peft")
    expected |= {"PEFT AdaLoRA", "released SoRA"} if gated else {"PEFT LoRA"}
    assert expected <= found.keys()


def test_a_wrong_kernel_is_refused(monkeypatch):
    right = gated_lora.scaled_b
    monkeypatch.setattr(gated_lora, "scaled_b", lambda *args: right(*args) * 1.01)
    case = linear.Case(64, 32, 32, 4, torch.float32, True)
    assert run.check(linear.BENCHMARK, linear.prepare("fulgurite", case, linear.Alone(case)))["wrong"]
    assert not run.check(linear.BENCHMARK, linear.prepare("plain torch", case, linear.Alone(case)))["wrong"]


def test_gates_contenders_are_right_and_the_two_rules_differ():
    workload = gates.BENCHMARK.workloads(Settings())[0]
    found = {name: prepare(workload.base()) for name, prepare in contenders(workload).items()}
    assert not [name for name, made in found.items() if run.check(gates.BENCHMARK, made)["wrong"]]
    assert largest_error(found["released SoRA"].results(), found["fulgurite"].expected()) > 1e-4


@pytest.mark.parametrize("kind", ["llama", "deberta"])
def test_step_contenders_are_right_before_and_behind_steps(kind):
    pytest.importorskip("transformers")
    workload = steps._workload(models.ModelCase(kind, 1, 2, 24, 4, torch.float32, hidden=64))
    for name, prepare in contenders(workload).items():
        made = prepare(workload.base())
        assert not run.check(steps.LLAMA, made)["wrong"], name
        made.run()
        made.run()
        assert not run.check(steps.LLAMA, made)["wrong"], name


def test_a_step_trains_and_the_check_leaves_no_trace():
    pytest.importorskip("transformers")
    case = models.ModelCase("llama", 1, 2, 24, 4, torch.float32, hidden=64)
    base = models.make_base(case)
    placed = models.place("fulgurite", case, base, gated=True)
    before = [p.detach().clone() for p in placed.parameters()]
    with models.random_factors(placed):
        pass
    assert all(torch.equal(a, b) for a, b in zip(before, placed.parameters(), strict=True))
    wrong = models.gradients(placed, base.batch)
    placed.factors[0].a.data.mul_(1.5)
    assert norm_error(models.gradients(placed, base.batch), wrong) > 1e-3


def test_the_frozen_floor_sends_its_gradient_through_every_layer():
    pytest.importorskip("transformers")
    case = models.ModelCase("deberta", 1, 2, 24, 4, torch.float32, hidden=64)
    base = models.make_base(case)
    placed = models.place("frozen", case, base, gated=False)
    reached = []

    def watch(module, args, out):
        out.register_hook(lambda grad: reached.append(bool(grad.abs().sum() > 0)))

    base.model.deberta.encoder.layer[0].attention.self.query_proj.register_forward_hook(watch)
    placed.model(**base.batch).loss.backward()
    assert reached and all(reached)
    assert all(p.grad is None for p in base.model.parameters())


def test_whole_training_follows_the_quickstart():
    options = training.recipe()
    rates = [training.learning_rate(options["learning_rate"], step) for step in range(272)]
    assert max(rates) == pytest.approx(options["learning_rate"], rel=0.1) and rates[-1] < 0.01 * max(rates)
    (workload,) = training.BENCHMARK.workloads(Settings())
    assert workload.whole == 272 and workload.facts["threshold"] == options["threshold"]


def test_reward_contenders_are_right_and_a_wrong_head_is_caught(monkeypatch):
    pytest.importorskip("transformers")
    case = models.ModelCase("llama", 1, 1, 24, 4, torch.float32, hidden=64, vocabulary=200)

    def few(divisor=1):
        return preference.four_answers(20, 200)

    workload = reward._workload(case, few)
    for name, prepare in contenders(workload).items():
        made = prepare(workload.base())
        assert not run.check(reward.BENCHMARK, made)["wrong"], name
        made.run()
        assert not run.check(reward.BENCHMARK, made)["wrong"], name
    original = reward.CompletionRewards.__call__
    monkeypatch.setattr(reward.CompletionRewards, "__call__", lambda *args: original(*args) * 1.01)
    made = workload.contenders["fulgurite"](workload.base())
    assert run.check(reward.BENCHMARK, made)["wrong"]
