"""APET's live weights: what writes them, and what must not be seen when."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fulgurite.adapters import APET, attach
from fulgurite.optim import ProximalAdamW
from tests.adapters.toys import Toy, bits, difference, move, same_bits, tuned


class Slow(torch.optim.Optimizer):
    """An optimizer of somebody's own."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.data -= group["lr"] * p.grad


@pytest.mark.parametrize(
    "make",
    [
        lambda groups: torch.optim.AdamW(groups, fused=True),
        lambda groups: torch.optim.AdamW(groups, foreach=True),
        lambda groups: torch.optim.AdamW(groups, foreach=False),
        lambda groups: torch.optim.SGD(groups, lr=0.1),
        lambda groups: ProximalAdamW(groups),
        lambda groups: Slow(groups),
    ],
    ids=["fused", "foreach", "loop", "sgd", "proximal", "custom"],
)
def test_every_optimizer_writes_the_live_weights(make):
    """Trap 1: fused steps move no version counter, so the weights are written by the hook behind every optimizer's step."""
    model, x = Toy(), torch.randn(5, 12)
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=60))
    optimizer = make(adapter.param_groups(lr=1e-2))
    for _ in range(3):
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()
        assert same_bits(model, bits(tuned(base, adapter)))
    torch.testing.assert_close(model(x), tuned(base, adapter)(x))


def test_an_optimizer_that_evaluates_inside_its_step():
    model, x = Toy(), torch.randn(5, 12)
    adapter = attach(model, APET(budget=60))
    optimizer = torch.optim.LBFGS([*adapter.deltas.values()], max_iter=10, line_search_fn="strong_wolfe")
    losses = []

    def closure():
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        losses.append(float(loss.detach()))
        return loss

    optimizer.step(closure)
    assert min(losses) < 0.7 * losses[0]


def test_another_optimizers_step_writes_nothing(monkeypatch):
    adapter = attach(Toy(), APET(budget=60))
    calls = []
    monkeypatch.setattr(adapter, "sync", lambda: calls.append(1))
    other = nn.Linear(2, 2)
    other(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert not calls


def steps(model, adapter, x, inside):
    """Gradients of one step: policy forward, reference forward under disabled(), backward (inside the block or behind it)."""
    model.zero_grad()
    policy = model(x)
    with adapter.disabled():
        with torch.no_grad():
            reference = model(x)
        loss = ((policy - reference) ** 2).sum() + policy.sum()
        if inside:
            loss.backward()
    if not inside:
        loss.backward()
    return reference, [delta.grad.clone() for delta in adapter.deltas.values()]


@pytest.mark.parametrize("inside", [False, True], ids=["backward behind", "backward inside disabled()"])
@pytest.mark.parametrize("checkpointed", [False, True], ids=["plain", "activation checkpointing"])
def test_policy_and_reference_in_one_step(inside, checkpointed):
    """Trap 2: the reference pass writes the base values into weights that autograd has saved."""
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    model, x = Toy(), torch.randn(6, 12)
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=400))
    move(adapter, 0.3)
    twin = tuned(base, adapter)
    reference = base(x).detach()
    policy = twin(x)
    (((policy - reference) ** 2).sum() + policy.sum()).backward()
    dense = dict(twin.named_parameters())
    expected = [dense[name].grad.view(-1)[index] for name, index in adapter.positions.items()]
    if checkpointed:
        inner = model.forward
        contexts = {"use_reentrant": False, "context_fn": adapter.checkpoint_contexts}
        model.forward = lambda x: checkpoint(inner, x, **contexts) if torch.is_grad_enabled() else inner(x)
    found_reference, found = steps(model, adapter, x, inside)
    torch.testing.assert_close(found_reference, reference)
    torch.testing.assert_close(found, expected)
    assert same_bits(model, bits(tuned(base, adapter))), (
        "behind the backward the active adapters are in the weights again"
    )


def test_a_reference_with_gradients_in_the_same_backward():
    torch.manual_seed(0)
    model, x = Toy(), torch.randn(6, 12, requires_grad=True)
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=400))
    move(adapter, 0.3)
    twin = tuned(base, adapter)
    (twin(x).sum() * 2 + base(x).square().sum()).backward()
    expected, x.grad = x.grad, None
    policy = model(x).sum() * 2
    with adapter.disabled():
        reference = model(x).square().sum()
    (policy + reference).backward()
    torch.testing.assert_close(x.grad, expected)


@pytest.mark.parametrize("shape", [(4, 6), (3, 4, 6)])
def test_a_backward_inside_disabled_behind_operations_in_place(shape):
    torch.manual_seed(0)
    layers = [nn.Linear(6, 8), nn.ReLU(inplace=True), nn.LayerNorm(8), nn.ReLU(inplace=True), nn.Linear(8, 8)]
    model = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.Linear(8, 3)).double()
    base, x = copy.deepcopy(model), torch.randn(shape).double()
    adapter = attach(model, APET(budget=100))
    move(adapter, 0.3)
    twin = tuned(base, adapter)
    twin(x).square().sum().backward()
    out = model(x).square().sum()
    with adapter.disabled():
        out.backward()
    dense = dict(twin.named_parameters())
    for name, index in adapter.positions.items():
        torch.testing.assert_close(adapter.deltas[name].grad, dense[name].grad.view(-1)[index])


def test_disabled_nested_with_exceptions_and_only():
    model, x = Toy(), torch.randn(4, 12)
    base, out = bits(model), model(x)
    first = attach(model, APET(budget=80), name="first")
    second = attach(model, APET(budget=80, seed=1), name="second")
    move(first, seed=1)
    move(second, seed=2)
    both = model(x)
    with first.disabled(), first.disabled(), second.disabled():
        assert same_bits(model, base)
        torch.testing.assert_close(model(x), out)
    with pytest.raises(KeyError), second.disabled():
        raise KeyError
    assert torch.equal(model(x), both)
    with second.disabled():
        one = model(x)
    with first.only():
        assert torch.equal(model(x), one)
        with second.only():
            assert difference(model(x), one) > 1e-4
        assert torch.equal(model(x), one)
    second.detach()
    assert torch.equal(model(x), one)
    first.detach()
    assert same_bits(model, base)


@pytest.mark.parametrize("reference_first", [False, True])
def test_weights_written_by_others_before_the_first_forward_become_the_base(reference_first):
    """As DDP does, which sends rank 0's parameters to the other ranks when it wraps the model."""
    model, other = Toy(), Toy()
    adapter = attach(model, APET(budget=80))
    with torch.no_grad():
        for name, q in other.named_parameters():
            model.get_submodule(name.rpartition(".")[0])._parameters[name.rpartition(".")[2]].copy_(q)
    x = torch.randn(2, 12)
    if reference_first:
        with adapter.disabled():
            assert torch.equal(model(x), other(x))
    assert torch.equal(model(x), other(x))
    move(adapter)
    with adapter.disabled():
        assert torch.equal(model(x), other(x))


@pytest.mark.slow
def test_compiled_model_gives_the_same_gradients():
    torch.manual_seed(0)
    model, x = Toy(), torch.randn(5, 12)
    adapter = attach(model, APET(budget=300))
    move(adapter)
    (model(x) - 1).square().mean().backward()
    eager = [delta.grad.clone() for delta in adapter.deltas.values()]
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    optimizer = torch.optim.SGD(adapter.param_groups(lr=0.1))
    loss = (compiled(x) - 1).square().mean()
    loss.backward()
    torch.testing.assert_close([delta.grad for delta in adapter.deltas.values()], eager)
    optimizer.step()
    assert float((compiled(x) - 1).square().mean().detach()) < float(loss.detach())
    with adapter.disabled():
        reference = compiled(x)
        torch.testing.assert_close(reference, model(x))
