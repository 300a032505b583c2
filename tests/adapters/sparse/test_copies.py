"""APET where weights and δ come together from elsewhere, where another state meets the backward, and where adapters overlap."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fulgurite.adapters import APET, LoRA, SoRA, attach, find_adapters


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def fit(model, adapter, steps=10, behind=None):
    x, y = torch.randn(32, 8), torch.randn(32, 1)
    optimizer = torch.optim.AdamW(adapter.param_groups(lr=0.05))
    for _ in range(steps):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        if behind is not None:
            behind()
    return x


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_weight_average_and_a_target_network_keep_the_base(dtype):
    model = mlp().to(dtype)
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=40))
    target = copy.deepcopy(model)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    x, y = torch.randn(32, 8).to(dtype), torch.randn(32, 1).to(dtype)
    optimizer = torch.optim.AdamW(adapter.param_groups(lr=0.05))
    for _ in range(10):
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        optimizer.step()
        average.update_parameters(model)
    with torch.no_grad():
        for mine, theirs in zip(target.parameters(), model.parameters(), strict=True):
            mine.copy_(theirs)
    before = [p.detach().clone() for p in average.parameters()]
    assert torch.equal(target(x), model(x))
    average(x)
    slack = 4 * torch.finfo(dtype).eps
    assert all(torch.allclose(a, b, rtol=slack, atol=1e-6) for a, b in zip(before, average.parameters(), strict=True))
    (copied,) = find_adapters(average)
    with copied.disabled():
        assert torch.equal(average(x), base(x))


def test_ranks_keep_their_places_beside_a_weight_average():
    model = mlp()
    adapter = attach(model, SoRA(rank=4, patience=1, look_every=1, targets="0"))
    branch = adapter.branches["0"]
    with torch.no_grad():
        branch.gate.copy_(torch.tensor([0.0, 0.0, 1.0, 1.0]))
        branch.lora_b.normal_()
    before = branch.lora_a.detach().clone()
    for retire in (False, True):
        optimizer = torch.optim.SGD(adapter.param_groups(lr=0.0), lr=0.0)
        handle = adapter.watch(optimizer, retire=retire)
        optimizer.step()
        handle.remove()
        assert torch.equal(branch.lora_a, before) != retire


class Normed(nn.Module):
    """A norm whose weight is a factor of the linear layer's input, as in Llama."""

    def __init__(self):
        super().__init__()
        self.scale, self.out = Scale(), nn.Linear(16, 4)

    def forward(self, x):
        return self.out(self.scale(x * 1.0))


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


def test_a_backward_elsewhere_sees_the_norm_s_weights_of_its_forward():
    torch.manual_seed(0)
    model, x = Normed(), torch.randn(5, 16)
    adapter = attach(model, APET(budget=60))
    with torch.no_grad():
        for delta in adapter.deltas.values():
            delta.normal_()
    adapter.sync()

    def gradients(inside):
        loss = model(x).square().sum()
        model.zero_grad()
        if inside:
            with adapter.disabled():
                loss.backward()
        else:
            loss.backward()
        return {name: delta.grad.clone() for name, delta in adapter.deltas.items()}

    outside, inside = gradients(False), gradients(True)
    assert outside.keys() == inside.keys() and all(torch.equal(outside[name], inside[name]) for name in outside)
    adapter.detach()
    attach(model, APET(budget=20, targets=r"out\.weight"))
    assert model.out.site.live_factors == 0


def test_two_adapters_on_the_same_positions_travel_in_one_state_dict():
    model, base = mlp(), mlp()
    for name in ("a", "b"):
        adapter = attach(model, APET(budget=60), name=name)
        fit(model, adapter, 3)
    x = torch.randn(4, 8)
    for off in ((), ("a",), ("b",), ("a", "b")):  # at the moment of saving
        with contextlib.ExitStack() as stack:
            for adapter in find_adapters(model):
                if adapter.name in off:
                    stack.enter_context(adapter.disabled())
            state = copy.deepcopy(model.state_dict())
        fresh = mlp()
        adapters = [attach(fresh, APET(budget=60), name=name) for name in ("a", "b")]
        fresh.load_state_dict(state)
        assert torch.equal(fresh(x), model(x))
        with adapters[0].disabled(), adapters[1].disabled():
            assert torch.equal(fresh(x), base(x))


def test_values_given_for_one_call():
    model, x = mlp(), torch.randn(4, 8)
    adapter = attach(model, APET(budget=40))
    own = model(x).detach()
    other = {name: torch.randn_like(p, requires_grad=True) for name, p in model.named_parameters() if "delta_" in name}
    found = torch.func.functional_call(model, other, x)
    twin = mlp()
    there = attach(twin, APET(budget=40))
    with torch.no_grad():
        for (_, mine), given in zip(sorted(there.deltas.items()), (other[k] for k in sorted(other)), strict=True):
            mine.copy_(given)
    there.sync()
    assert torch.equal(found, twin(x))
    gradients = torch.autograd.grad(found.sum(), list(other.values()))
    twin(x).sum().backward()
    for gradient, (name, _) in zip(gradients, other.items(), strict=True):
        assert torch.equal(gradient, dict(twin.named_parameters())[name].grad)
    assert torch.equal(model(x), own) and adapter.deltas


def test_a_second_adapter_finds_conv1d_layers():
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=16)
    )
    first = attach(model, LoRA(rank=2), name="a")
    assert attach(model, LoRA(rank=2), name="b").layer_names == first.layer_names
    assert len(first.layer_names) >= 8
