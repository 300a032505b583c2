"""Averaging and task arithmetic against their formulas in float64; models that differ are named."""

from __future__ import annotations

import pytest
import torch

from fulgurite.models import average_weights, task_arithmetic


def state(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(3, 4, generator=generator).to(dtype), "position": torch.arange(5)}


def test_the_mean_and_the_sum_of_task_vectors() -> None:
    base, one, two = state(0), state(1), state(2)
    mean = average_weights([one, two], [1, 3])
    assert torch.equal(mean["w"], (0.25 * one["w"].double() + 0.75 * two["w"].double()).float())
    assert torch.equal(average_weights([one])["w"], one["w"]) and torch.equal(mean["position"], base["position"])
    task = task_arithmetic(base, [one, two], 0.4)["w"]
    wide = [s["w"].double() for s in (base, one, two)]
    assert torch.allclose(task.double(), wide[0] + 0.4 * (wide[1] - wide[0] + wide[2] - wide[0]), atol=1e-7)
    assert torch.equal(task_arithmetic(base, [one], 1.0)["w"], one["w"]), "one task vector at 1 is that model"
    assert average_weights([state(1, torch.bfloat16)] * 3)["w"].dtype == torch.bfloat16


def test_models_that_differ_are_named() -> None:
    one = state(1)
    with pytest.raises(ValueError, match="differ in 1 tensors, such as 'more'"):
        average_weights([one, {**one, "more": torch.ones(1)}])
    with pytest.raises(ValueError, match=r"w is \(3, 4\) in the first and \(2, 4\) in model 1"):
        task_arithmetic(one, [{**one, "w": torch.ones(2, 4)}])
    with pytest.raises(ValueError, match="position holds whole numbers that differ between model 0 and model 1"):
        average_weights([one, {**one, "position": torch.zeros(5, dtype=torch.int64)}])
    for bad in (lambda: average_weights([]), lambda: task_arithmetic(one, []), lambda: average_weights([one], [1, 2])):
        with pytest.raises(ValueError, match="give"):
            bad()
