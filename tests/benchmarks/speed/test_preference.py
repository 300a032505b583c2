"""The entries ``preference_step`` and ``reference_step``: every contender is right on a small case, and a wrong one is caught."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from benchmarks import run
from benchmarks.contenders.models import ModelCase, make_base
from benchmarks.harness.registry import OURS
from benchmarks.speed import preference, reference
from fulgurite.lightning_modules.objectives.completions import CompletionLogProbs

CASE = ModelCase("llama", 1, 1, 32, 4, torch.float32, "cpu", hidden=64, vocabulary=100)
SHAPES = {
    "UltraInteract": partial(preference.ultra_interact, vocabulary=100),
    "4 answers": partial(preference.four_answers, vocabulary=100),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("contender", [OURS, preference.UNPACKED])
def test_tree_and_pairs_are_right(contender, shape):
    step = preference.prepare(contender, SHAPES[shape], CASE, make_base(CASE))
    assert not run.check(preference.BENCHMARK, step)["wrong"]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cached", [True, False])
def test_both_references_are_right(cached, shape):
    step = reference.prepare(cached, SHAPES[shape], CASE, make_base(CASE))
    assert not run.check(reference.BENCHMARK, step)["wrong"]


def test_a_wrong_reference_is_refused(monkeypatch):
    right = CompletionLogProbs.__call__

    def uneven(self, network, batch):
        found = right(self, network, batch)
        return found if torch.is_grad_enabled() else found + torch.arange(len(found))

    step = reference.prepare(False, SHAPES["4 answers"], CASE, make_base(CASE))
    monkeypatch.setattr(CompletionLogProbs, "__call__", uneven)
    assert run.check(reference.BENCHMARK, step)["wrong"]
