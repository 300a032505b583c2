"""The distribution is transformers' own; draws follow it, and belong to their row alone."""

import math

import pytest
import torch

from fulgurite.generation import SamplingSettings
from fulgurite.generation.in_process.drawing import Row, Stops, choose, distribution


def rows_of(count: int, seed: int = 0) -> list[Row]:
    return [Row(0, i, seed + i, [1], 10_000, Stops({})) for i in range(count)]


@pytest.mark.parametrize("top_p", [1.0, 0.9, 0.3, 1e-6])
@pytest.mark.parametrize("top_k", [0, 1, 7, 5000])
def test_the_distribution_is_transformers_own(top_p: float, top_k: int) -> None:
    from transformers.generation import logits_process as theirs

    torch.manual_seed(0)
    logits = torch.randn(4, 3000, dtype=torch.float64) * 3
    expected = theirs.TemperatureLogitsWarper(0.7)(None, logits)
    if top_k:
        expected = theirs.TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = theirs.TopPLogitsWarper(top_p)(None, expected)
    found = distribution(logits, SamplingSettings(temperature=0.7, top_p=top_p, top_k=top_k))
    assert torch.allclose(found, expected.softmax(-1), atol=1e-12)
    assert torch.equal(found > 0, expected > -math.inf)


def test_draws_follow_the_distribution() -> None:
    settings = SamplingSettings(temperature=1.3, top_k=5)
    logits = torch.tensor([[0.3, -2.0, 1.0, 0.9, -0.5, 2.0, -9.0]])
    probs = distribution(logits.double(), settings)[0]
    rows = rows_of(40)
    for _ in range(500):
        choose(logits.expand(40, -1), rows, settings)
    counts = torch.zeros(7, dtype=torch.float64)
    for row in rows:
        counts += torch.bincount(torch.tensor(row.tokens), minlength=7)
    expected = probs * counts.sum()
    assert float(counts[expected == 0].sum()) == 0
    live = expected > 0
    chi_square = float(((counts - expected)[live] ** 2 / expected[live]).sum())
    assert chi_square < 18.5, "4 degrees of freedom: one in a thousand is above"
    assert all(log == pytest.approx(math.log(probs[token])) for log, token in zip(rows[0].log_probs, rows[0].tokens))


def test_a_row_draws_the_same_beside_others() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 2000)
    settings = SamplingSettings(temperature=1.0, top_p=0.95, repetition_penalty=1.2)
    together, alone = rows_of(6, 5), rows_of(6, 5)
    for _ in range(20):
        choose(logits, together, settings)
        for i in reversed(range(6)):
            choose(logits[i : i + 1], alone[i : i + 1], settings)
    assert [row.tokens for row in together] == [row.tokens for row in alone]
    assert [row.log_probs for row in together] == [row.log_probs for row in alone]
    assert len({tuple(row.tokens) for row in together}) == 6


def test_a_number_just_below_one_never_takes_an_impossible_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Row, "uniform", lambda self: 1 - 2**-53)
    (row,) = rows_of(1)
    choose(torch.tensor([[0.0, 1.0, -math.inf, -math.inf]]), [row], SamplingSettings(temperature=1.0))
    assert row.tokens == [1]
    monkeypatch.setattr(Row, "uniform", lambda self: 0.0)
    choose(torch.tensor([[-math.inf, -math.inf, 0.0, 1.0]]), [row], SamplingSettings(temperature=1.0))
    assert row.tokens == [1, 2]


def test_logits_without_numbers_are_refused() -> None:
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            choose(torch.tensor([[0.0, value]]), rows_of(1), SamplingSettings())
    with pytest.raises(ValueError, match="not finite"):
        choose(torch.full((1, 3), -math.inf), rows_of(1), SamplingSettings())


def test_the_length_ends_a_row() -> None:
    row = Row(0, 0, 0, [1], 2, Stops({4: "</s>"}))
    row.take(3, 0.0, 0.0)
    assert row.finish is None
    row.take(4, 0.0, 0.0)
    assert (row.finish, row.stop) == ("stop", "</s>"), "a stop token goes before the length"
    row = Row(0, 0, 0, [1], 1, Stops({}))
    row.take(3, 0.0, 0.0)
    assert (row.finish, row.stop) == ("length", None)
