"""ProximalAdamW: equals torch's AdamW plus a soft threshold, survives what users do to optimizers."""

from __future__ import annotations

import copy

import pytest
import torch

from fulgurite.kernels import soft_threshold_
from fulgurite.optim import ProximalAdamW


def gates(count=5, size=4, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(size, generator=g).to(dtype)) for _ in range(count)]


def give_gradients(params, step):
    for i, p in enumerate(params):
        grad = torch.cos(torch.arange(p.numel(), dtype=p.dtype) * (i + 1) + step)
        p.grad = grad if p.grad is None else p.grad.copy_(grad)


def group(params, **extra):
    return {"params": params, "lr": 1e-2, "weight_decay": 0.0, "eps": 1e-6, "threshold": 3e-3, **extra}


def plain_run(params, steps, lr=lambda step: 1e-2, threshold=lambda step: 3e-3):
    optimizer = torch.optim.AdamW(params, lr=1e-2, weight_decay=0.0, eps=1e-6)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr(step)
        give_gradients(params, step)
        optimizer.step()
        with torch.no_grad():
            for p in params:
                soft_threshold_(p, threshold(step))
    return params


def test_equals_adamw_with_a_soft_threshold_behind_it():
    expected = plain_run(gates(), 30)
    params = gates()
    optimizer = ProximalAdamW([group(params)])
    for step in range(30):
        optimizer.zero_grad()
        give_gradients(params, step)
        optimizer.step()
    torch.testing.assert_close(params, expected, rtol=1e-5, atol=1e-6)
    assert sum(int((p == 0).sum()) for p in params) == sum(int((p == 0).sum()) for p in expected) > 0


def test_threshold_scaled_by_lr_follows_the_schedule():
    rate = lambda step: 1e-2 * (1 - step / 20)  # noqa: E731
    expected = plain_run(gates(), 20, rate, lambda step: 3e-3 * rate(step) / 1e-2)
    params = gates()
    optimizer = ProximalAdamW([group(params, threshold_scaling="lr", peak_lr=1e-2)])
    for step in range(20):
        optimizer.param_groups[0]["lr"] = rate(step)
        give_gradients(params, step)
        optimizer.step()
    torch.testing.assert_close(params, expected, rtol=1e-5, atol=1e-6)


def test_plain_groups_are_torch_adamw_bit_for_bit():
    ours, theirs = gates(), gates()
    mine = ProximalAdamW([{"params": ours, "lr": 1e-2, "weight_decay": 0.1}])
    other = torch.optim.AdamW(theirs, lr=1e-2, weight_decay=0.1)
    for step in range(10):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        mine.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def train(params, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        give_gradients(params, step)
        optimizer.step()


def test_state_dict_round_trip_continues_bit_for_bit():
    straight = gates()
    train(straight, ProximalAdamW([group(straight)]), range(20))
    first = gates()
    optimizer = ProximalAdamW([group(first)])
    train(first, optimizer, range(10))
    saved = copy.deepcopy(optimizer.state_dict())
    second = [torch.nn.Parameter(p.detach().clone()) for p in first]
    resumed = ProximalAdamW([group(second)])
    resumed.load_state_dict(saved)
    train(second, resumed, range(10, 20))
    assert all(torch.equal(a, b) for a, b in zip(straight, second, strict=True))


def test_gradients_replaced_or_dropped_are_gathered():
    straight, params = gates(), gates()
    train(straight, ProximalAdamW([group(straight)]), range(12))
    optimizer = ProximalAdamW([group(params)])
    for step in range(12):
        for p in params:
            p.grad = None if step % 2 else torch.zeros_like(p)
        give_gradients(params, step)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(straight, params, strict=True))


def test_parameter_moved_by_its_owner_is_found_again():
    params = gates(count=40)
    optimizer = ProximalAdamW([group(params)])
    train(params, optimizer, range(3))
    params[20].data = params[20].data.clone()
    before = params[20].detach().clone()
    train(params, optimizer, range(3, 20))
    assert not torch.equal(params[20], before)


def test_resized_parameter_keeps_its_moments():
    params = gates(size=6)
    optimizer = ProximalAdamW([group(params)])
    train(params, optimizer, range(5))
    state = optimizer.state[params[2]]
    state["exp_avg"], state["exp_avg_sq"] = state["exp_avg"][:3].clone(), state["exp_avg_sq"][:3].clone()
    moments = state["exp_avg"].clone()
    params[2].grad = None
    params[2].data = params[2].data[:3].clone()
    params[2].grad = torch.zeros(3)
    optimizer.step()
    assert optimizer.state[params[2]]["exp_avg"].shape == (3,)
    torch.testing.assert_close(optimizer.state[params[2]]["exp_avg"], moments * 0.9)


def test_backward_accumulates_into_the_arena():
    params = gates()
    optimizer = ProximalAdamW([group(params)])
    give_gradients(params, 0)
    optimizer.step()
    optimizer.zero_grad()
    views = [p.grad for p in params]
    sum((p * p).sum() for p in params).backward()
    assert all(p.grad is view and torch.equal(view, 2 * p) for p, view in zip(params, views, strict=True))


def test_hooks_run_once_per_step_beside_a_plain_adamw():
    torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))])
    params = gates()
    optimizer = ProximalAdamW([group(params), {"params": gates(), "lr": 1e-2}])
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))
    give_gradients(params, 0)
    optimizer.step()
    assert len(calls) == 1


def test_closure_and_gradient_scaling_interface():
    params = gates()
    optimizer = ProximalAdamW([group(params)])

    def closure():
        optimizer.zero_grad()
        loss = sum((p * p).sum() for p in params)
        loss.backward()
        return loss

    assert float(optimizer.step(closure)) > 0


@pytest.mark.parametrize("later", [False, True])
def test_a_scaler_skips_a_step_whose_gradients_are_not_finite(later):
    """Also with fused=True, where PyTorch leaves skipping to the optimizer."""
    gate, plain = torch.nn.Parameter(torch.ones(4)), torch.nn.Parameter(torch.ones(3))
    mine = {"params": [gate], "threshold": 0.1}
    optimizer = ProximalAdamW([{"params": [plain]}] if later else [{"params": [plain]}, mine], lr=0.1, fused=True)
    if later:
        optimizer.add_param_group(mine)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for factor, moves in ((float("inf"), False), (1.0, True)):
        optimizer.zero_grad()
        scaler.scale(factor * (gate.sum() + plain.sum())).backward()
        scaler.step(optimizer)
        scaler.update()
        assert all(bool((p != 1).all()) == moves and bool(p.isfinite().all()) for p in (gate, plain))
    assert torch.allclose(plain, torch.full((3,), 0.9 - 0.1 * 0.01), atol=1e-4), "the gradient was unscaled"


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"threshold": -1.0}, "must be a number >= 0"),
        ({"threshold_scaling": "sqrt"}, "'constant', 'lr'"),
        ({"prox": "hard"}, "'soft', 'reference'"),
    ],
)
def test_bad_groups(extra, words):
    with pytest.raises(ValueError, match=words):
        ProximalAdamW([group(gates(), **extra)])


def test_half_precision_gates_are_refused():
    with pytest.raises(ValueError, match="float32"):
        ProximalAdamW([group(gates(dtype=torch.bfloat16))])


def test_groups_of_gates_fit_adafactor_too():
    from fulgurite.adapters import SoRA, attach

    model = torch.nn.Sequential(torch.nn.Linear(8, 8))
    adapter = attach(model, SoRA(rank=2))
    mine = ProximalAdamW(adapter.param_groups(lr=1e-3))
    assert [g["eps"] for g in mine.param_groups if g["threshold"] is not None] == [1e-6]
    model(torch.randn(3, 8)).sum().backward()
    torch.optim.Adafactor(adapter.param_groups(lr=1e-3)).step()
