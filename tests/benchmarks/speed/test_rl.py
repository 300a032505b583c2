"""The entries ``policy_step`` and ``grpo_step``: every contender is right on a small case, and a wrong one is caught."""

from __future__ import annotations

import pytest

from benchmarks import run
from benchmarks.harness.registry import OURS, Settings
from benchmarks.speed.rl import grpo, policy
from benchmarks.speed.rl.stepping import Stepped
from fulgurite.losses.policy import PolicyLoss

TOY = Settings(toy=True)


def verdict(benchmark, contender):
    (workload,) = benchmark.workloads(TOY)
    step = workload.contenders[contender](workload.base())
    return step, run.check(benchmark, step)


@pytest.mark.parametrize("contender", [OURS, policy.UNPACKED])
def test_a_tree_and_its_answers_one_by_one_are_right(contender):
    step, found = verdict(policy.BENCHMARK, contender)
    assert not found["wrong"], found
    step.run()
    (workload,) = policy.BENCHMARK.workloads(TOY)
    tokens = {OURS: 32 + 8 * 8, policy.UNPACKED: 8 * (32 + 8)}
    assert workload.name.startswith("8 answers") and step.facts() == {"tokens": tokens[contender]}


def test_trl_is_right_where_it_is_installed():
    pytest.importorskip("trl", minversion="1.16", reason="trl 1.16 or newer is not installed: nothing to compare with")
    for benchmark in (policy.BENCHMARK, grpo.BENCHMARK):
        step, found = verdict(benchmark, policy.TRL)
        assert not found["wrong"], found
        step.run()


def test_a_wrong_loss_has_no_speed(monkeypatch):
    right = PolicyLoss.tokens

    def scaled(self, *arguments):
        found = right(self, *arguments)
        return found._replace(losses=found.losses * 1.001)

    monkeypatch.setattr(PolicyLoss, "tokens", scaled)
    assert verdict(policy.BENCHMARK, OURS)[1]["wrong"]


def test_a_whole_step_of_ours_is_right_and_says_what_drawing_took(capsys):
    step, found = verdict(grpo.BENCHMARK, OURS)
    assert not found["wrong"], found
    step.run()
    step.run()
    facts = step.facts()
    assert facts["parts_ms"].keys() == {"drawing", "training"} and min(facts["parts_ms"].values()) > 0
    assert 0 < facts["drawn_tokens_per_step"] <= 2 * 8 * 8
    assert run.apart(facts).endswith("tokens drawn")


def test_a_stepped_training_waits_and_its_errors_come_out():
    done = []

    def train():
        for number in range(2):
            stepped.wait()
            done.append(number)
        raise ValueError("broken")

    stepped = Stepped(train)
    stepped.start()
    assert done == []
    stepped.step()
    assert done == [0]
    with pytest.raises(ValueError, match="broken"):
        stepped.step()
