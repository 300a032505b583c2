"""Pooled states equal those of transformers' own hidden states, of rows alone, in one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fulgurite.models.emulator.states import PooledStates
from tests.models.emulator.families import family

ROWS = [torch.arange(3, 3 + n) for n in (7, 4, 2)]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(ROWS, batch_first=True)
    return ids, (ids != 0).long()


def collected(model: Any, pooling: str) -> list[torch.Tensor]:
    ids, mask = batch()
    with torch.no_grad(), PooledStates(model, pooling) as states:
        for rows in ([0, 1], [2]):
            states.begin(mask[rows], [f"row {i}" for i in rows])
            model(input_ids=ids[rows], attention_mask=mask[rows])
    return states.features()


@pytest.mark.parametrize("pooling", ["weighted", "mean", "last"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom"])
def test_equal_those_of_each_row_alone(name: str, pooling: str) -> None:
    model: Any = family(name)
    found = collected(model, pooling)
    assert len(found) == 6 and all(x.shape == (3, 32) for x in found)
    for i, row in enumerate(ROWS):
        with torch.no_grad():
            hidden = model(input_ids=row[None], output_hidden_states=True).hidden_states
        t = torch.arange(1, len(row) + 1, dtype=torch.float32)
        weights = {"weighted": t / t.sum(), "mean": torch.ones_like(t) / len(t), "last": (t == len(t)).float()}[pooling]
        for layer in range(5):  # behind the sixth transformers puts the final norm
            torch.testing.assert_close(found[layer][i], weights @ hidden[layer + 1][0], atol=1e-5, rtol=1e-4)


def test_hooks_are_gone_afterwards() -> None:
    model: Any = family("llama")
    collected(model, "mean")
    assert not any(module._forward_hooks for module in model.modules())


def test_nan_is_refused_with_its_layer_and_row() -> None:
    model: Any = family("llama")
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match="layer 3 gives NaN or infinity for row 0"):
        collected(model, "weighted")


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(ValueError, match="pooling='max'; allowed are weighted, mean, last"):
        PooledStates(family("llama"), "max")
