"""The plane through three modules' weights: corners bit for bit, mixtures, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fulgurite.models.landscape import WeightPlane


def three() -> list[nn.Sequential]:
    made = []
    for seed in range(3):
        torch.manual_seed(seed)
        made.append(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))
    return made


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_corners_are_the_models_bit_for_bit_and_the_module_comes_back() -> None:
    module, first, second = three()
    before, others = weights(module), [weights(first), weights(second)]
    with WeightPlane(module, *others) as plane:
        assert plane.scalars == 3 * 4 + 4 + 4 * 2 + 2, "LayerNorm's are alike in all"
        for place, corner in (((1.0, 0.0), others[0]), ((0.0, 1.0), others[1]), ((0.0, 0.0), before)):
            plane.go(*place)
            assert all(torch.equal(value, corner[name]) for name, value in weights(module).items())
        plane.go(0.3, -0.5)
        mixed = {name: 1.2 * before[name] + 0.3 * others[0][name] - 0.5 * others[1][name] for name in before}
        for name, value in weights(module).items():
            torch.testing.assert_close(value, mixed[name])
    assert all(torch.equal(value, before[name]) for name, value in weights(module).items())


def test_half_precision_is_rounded_once() -> None:
    module, first, _ = (each.bfloat16() for each in three())
    a, b = module[0].weight.detach().clone(), first[0].weight.detach().clone()
    with WeightPlane(module, weights(first)) as plane:
        plane.go(0.25)
        assert torch.equal(module[0].weight, (0.75 * a.float() + 0.25 * b.float()).bfloat16())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w: {}, "a model has no 0.weight"),
        (lambda w: w | {"0.weight": torch.ones(2, 2)}, "has the shapes"),
        (lambda w: w | {"2.bias": torch.full((2,), float("inf"))}, "2.bias holds NaN or infinity"),
    ],
)
def test_refuses(change, words: str) -> None:
    module, first, _ = three()
    with pytest.raises(ValueError, match=words):
        WeightPlane(module, change(weights(first)))


def test_models_that_are_alike_are_refused() -> None:
    module, _, _ = three()
    with pytest.raises(ValueError, match="have the same weights"):
        WeightPlane(module, weights(module))
