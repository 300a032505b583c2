"""Choices scored with each question computed once have the log-likelihoods of `fulgurite evaluate`."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.studies.crash.scoring import likelihoods
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.records.item import Item
from fulgurite.evaluation.likelihood import ModelScorer
from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import emulator_of


@pytest.mark.parametrize("sharing", ["none", "repeat-all"])
def test_equal_those_of_the_evaluation(sharing: str) -> None:
    from fulgurite.data.playground import resolve_backbone

    model: Any = load_backbone(resolve_backbone("playground"), "causal_lm").model.eval()
    if sharing != "none":
        model = emulator_of(model, "full", [0, 2, 3], [0, 3], sharing, "uniform").model
    tokenizer = load_tokenizer("playground")
    items = [
        Item(
            str(i),
            f"Question: {'what is ' * (i + 1)}{i}\nAnswer:",
            0,
            tuple(f" {'the red film ' * j}{i + j}" for j in range(2 + i % 3)),
        )
        for i in range(7)
    ]
    found = likelihoods(model, tokenizer, items, batch_size=3)
    expected = dict(ModelScorer(model, tokenizer).score([(item.prompt, item.choices) for item in items]))
    for place, mine in enumerate(found):
        assert mine.tokens == expected[place].tokens
        assert mine.sums == pytest.approx(expected[place].sums, abs=1e-3)
