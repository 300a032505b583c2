"""Soft threshold, the released rule, and the fused AdamW and proximal step."""

from __future__ import annotations

import pytest
import torch

from fulgurite.kernels import proximal_adamw_step_, reference, soft_threshold_

VALUES = [0.35, 0.25, 0.19, 0.15, 0.11, 0.10, 0.05, -0.15, -0.30]
# Measured by running the authors' released statements at threshold 0.1.
RELEASED = [0.25, 0.15, 0.0, 0.0, 0.0, 0.10, 0.0, 0.0, -0.20]
SOFT = [0.25, 0.15, 0.09, 0.05, 0.01, 0.0, 0.0, -0.05, -0.20]


def step(function, param, prox, threshold, weight_decay=0.0, steps=1, lr=0.0):
    state = [torch.zeros_like(param), torch.zeros_like(param)]
    count = torch.zeros(())
    for i in range(steps):
        grad = torch.sin(torch.arange(param.numel(), dtype=param.dtype) + i)
        function(
            param,
            grad,
            *state,
            step=count,
            lr=lr,
            beta1=0.9,
            beta2=0.999,
            eps=1e-6,
            weight_decay=weight_decay,
            threshold=threshold,
            prox=prox,
        )
    assert float(count) == steps
    return param


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_soft_threshold_equals_its_twin(dtype):
    value = torch.randn(1001, dtype=torch.float64).to(dtype)
    expected = reference.soft_threshold_(value.clone(), 0.3)
    result = soft_threshold_(value, 0.3)
    assert result is value
    torch.testing.assert_close(value, expected, rtol=0, atol=float(torch.finfo(dtype).eps))
    assert ((value == 0) == (expected == 0)).all()


def test_soft_threshold_closed_form_and_nan():
    value = torch.tensor([*VALUES, float("nan")], dtype=torch.float64)
    soft_threshold_(value, 0.1)
    torch.testing.assert_close(value[:-1], torch.tensor(SOFT, dtype=torch.float64))
    assert value[-1].isnan()


def test_soft_threshold_per_element_and_gradient():
    value = torch.tensor([1.0, -1.0, 0.2], dtype=torch.float64, requires_grad=True)
    out = soft_threshold_(value * 2, torch.tensor([0.5, 3.0, 0.1], dtype=torch.float64))
    out.sum().backward()
    torch.testing.assert_close(out.detach(), torch.tensor([1.5, 0.0, 0.3], dtype=torch.float64))
    assert value.grad.tolist() == [2.0, 0.0, 2.0]


@pytest.mark.parametrize("bad", [-0.1, float("nan")])
def test_refuses_a_negative_threshold(bad):
    with pytest.raises(ValueError, match="must be a number >= 0"):
        soft_threshold_(torch.ones(3), bad)


def test_reference_rule_reproduces_the_released_code():
    result = step(proximal_adamw_step_, torch.tensor(VALUES), "reference", 0.1)
    torch.testing.assert_close(result, torch.tensor(RELEASED))


@pytest.mark.parametrize("prox", ["soft", "reference"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_step_equals_its_twin_over_fifty_steps(prox, weight_decay):
    start = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    arguments = {"prox": prox, "threshold": 2e-3, "weight_decay": weight_decay, "steps": 50, "lr": 1e-2}
    ours = step(proximal_adamw_step_, start.clone(), **arguments)
    twin = step(reference.proximal_adamw_step_, start.clone(), **arguments)
    torch.testing.assert_close(ours, twin, rtol=1e-10, atol=1e-12)
    single = step(proximal_adamw_step_, start.float(), **arguments)
    torch.testing.assert_close(single.double(), twin, rtol=1e-4, atol=2e-6)


def test_unknown_rule():
    with pytest.raises(ValueError, match="'soft', 'reference'"):
        step(proximal_adamw_step_, torch.ones(2), "hard", 0.1)
