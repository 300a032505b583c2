"""The entry ``sft_step``: every contender is right on a small pack, and one whose rows see one another is caught."""

from __future__ import annotations

import pytest
import torch

from benchmarks import run
from benchmarks.contenders.models import ModelCase, make_base
from benchmarks.harness.registry import OURS, Settings
from benchmarks.speed import sft

CASE = ModelCase("llama", 1, 1, 32, 4, torch.float32, "cpu", hidden=64, vocabulary=100)
LENGTHS = [96, 64, 160]


@pytest.mark.parametrize("contender", sft._LOSSES)
def test_contenders_are_right(contender):
    (workload,) = sft.BENCHMARK.workloads(Settings(toy=True))
    if isinstance(reason := workload.contenders[contender], str):
        pytest.skip(reason)
    step = sft.prepare(contender, LENGTHS, CASE, make_base(CASE))
    assert not run.check(sft.BENCHMARK, step)["wrong"]
    step.run()
    assert not run.check(sft.BENCHMARK, step)["wrong"]


def test_rows_that_see_one_another_are_refused():
    """The same pack as one row."""
    base = make_base(CASE)
    step = sft.prepare(OURS, LENGTHS, CASE, base)
    right = sft.LanguageModelling.__call__

    def joined(self, network, batch):
        edges = batch["cu_seq_lens"][[0, -1]]
        return right(self, network, {k: v for k, v in batch.items() if k != "segments"} | {"cu_seq_lens": edges})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sft.LanguageModelling, "__call__", joined)
        assert run.check(sft.BENCHMARK, step)["wrong"]


def test_a_pack_supervises_the_last_two_thirds_of_each_row():
    pack = sft.make_pack([6, 9], 50)
    assert (pack["labels"][0] != -100).tolist() == [False] * 2 + [True] * 4 + [False] * 3 + [True] * 6
    assert pack["position_ids"][0].tolist() == [*range(6), *range(9)] and pack["cu_seq_lens"].tolist() == [0, 6, 15]


def test_the_workload_of_a_gpu_tells_tokens_and_operations():
    (workload,) = sft.BENCHMARK.workloads(Settings("cuda"))
    facts = workload.facts
    # Of about 1.24 billion numbers in products, four operations a token where the head counts for supervised tokens.
    assert facts["tokens_per_step"] == 8064 and facts["peak_flops"] == 989e12
    assert 3.5 < facts["flops_per_step"] / facts["tokens_per_step"] / 1.24e9 < 4.5
