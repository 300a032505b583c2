"""The sampling benchmark: every contender writes the likeliest tokens, and one that writes others is caught."""

import torch

from benchmarks import run
from benchmarks.harness.registry import OURS, Settings
from benchmarks.speed import sampling


def test_contenders_are_right_and_count_what_they_draw() -> None:
    workload = sampling.BENCHMARK.workloads(Settings())[0]
    case = workload.base()
    case.prompts, case.longest = case.prompts[:2], 6
    for prepare in workload.contenders.values():
        step = prepare(case)  # type: ignore[operator]
        assert not run.check(sampling.BENCHMARK, step)["wrong"]
        step.run()
        assert 32 <= step.facts()["tokens_per_run"] <= 32 * 6, "16 answers to each of two prompts"


def test_other_tokens_are_caught() -> None:
    workload = sampling.BENCHMARK.workloads(Settings())[0]
    case = workload.base()
    case.prompts = case.prompts[:2]
    step = workload.contenders[OURS](case)  # type: ignore[operator]
    expected = step.expected()
    with torch.no_grad():
        case.model.model.norm.weight[3] += 2.0
    assert sampling._different(step.results(), expected) > 0
