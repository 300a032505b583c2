"""All speed benchmarks by name: the one place that knows every file of benchmarks/speed/."""

from __future__ import annotations

from benchmarks.harness.registry import Benchmark

__all__ = ["all_benchmarks"]


def all_benchmarks() -> dict[str, Benchmark]:
    """Every entry by name, in the order in which they run."""
    from benchmarks.speed import (
        attention,
        fusion,
        gates,
        linear,
        log_probs,
        preference,
        reference,
        reward,
        sampling,
        sft,
        sparse,
        sparse_steps,
        steps,
        training,
    )
    from benchmarks.speed.rl import grpo, policy

    steps_of_models = [steps.LLAMA, steps.DEBERTA, preference.BENCHMARK, reference.BENCHMARK, reward.BENCHMARK]
    steps_of_models += [sft.BENCHMARK, attention.BENCHMARK, policy.BENCHMARK, grpo.BENCHMARK]
    entries = [linear.BENCHMARK, log_probs.BENCHMARK, fusion.BENCHMARK, gates.BENCHMARK, *steps_of_models]
    entries += [training.BENCHMARK, sparse.GRADIENT, sparse.LINEAR, sparse_steps.SPARSE_LLAMA, sampling.BENCHMARK]
    return {entry.name: entry for entry in entries}
