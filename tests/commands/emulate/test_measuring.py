"""One pass over the support set for perplexity and states, whatever the number of layers and rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.support import SupportRow, fitting
from tests.models.emulator.families import family
from tests.models.tiny import VOCABULARY

DRAW = torch.Generator().manual_seed(0)
ROWS = [
    SupportRow(torch.randint(1, VOCABULARY, (3 + i % 5,), generator=DRAW).tolist(), 1 + i % 2, f"row {i}")
    for i in range(512)
]


def test_512_rows_of_24_layers_take_one_pass() -> None:
    model: Any = family("llama", 24)
    seen: list[int] = []
    hook = model.model.layers[7].register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    found = measure(model, ROWS, 64, "weighted")
    hook.remove()
    assert len(found.features) == 24 and all(x.shape == (512, 32) and x.dtype == torch.float32 for x in found.features)
    # Before the pass a few tokens prove the head and that the model is causal.
    assert seen[-8:] == [64] * 8 and set(seen[:-8]) == {1} and len(seen) <= 13
    assert not model.model.layers[7]._forward_hooks


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_perplexity_is_that_of_the_counted_tokens(name: str) -> None:
    model: Any = family(name)
    loss, tokens = 0.0, 0
    for row in ROWS[:20]:
        ids = torch.tensor([row.ids])
        with torch.no_grad():
            logs = model(input_ids=ids).logits[0].log_softmax(-1)
        for place in range(row.start, len(row.ids)):
            loss, tokens = loss - float(logs[place - 1, row.ids[place]]), tokens + 1
    found = measure(model, ROWS[:20], 7)
    assert found.tokens == tokens and found.features == []
    assert found.perplexity == pytest.approx(float(torch.tensor(loss / tokens).exp()), rel=1e-4)


def test_rows_are_cut_to_the_models_positions() -> None:
    assert (
        fitting(family("gpt2"), 512) == 64
        and fitting(family("gpt2"), 20) == 20
        and fitting(family("llama"), 512) == 512
    )
