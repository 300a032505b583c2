"""APET: gradients of the trained scalars, live weights and their traps, exact undoing, ties, optimizers."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref

import pytest
import torch
from torch import nn
from toys import Mixed, Toy, difference

from fulgurite.adapters import APET, LoRA, SparseAdapter, attach, eligible_scalars, find_adapters
from fulgurite.optim import ProximalAdamW


def move(adapter: SparseAdapter, scale: float = 0.05, seed: int = 0) -> None:
    """Give δ values, as after some training."""
    g = torch.Generator().manual_seed(seed)
    for delta in adapter.deltas.values():
        delta.data.copy_(torch.randn(delta.shape, generator=g) * scale)
    adapter.sync()


def tuned(base: nn.Module, adapter: SparseAdapter) -> nn.Module:
    """The base with δ added to plain parameters: what autograd and the optimizer are compared with."""
    twin = copy.deepcopy(base)
    parameters = dict(twin.named_parameters())
    for name, index in adapter.positions.items():
        flat = parameters[name].data.view(-1)
        flat[index] = (flat[index].to(adapter.deltas[name].dtype) + adapter.deltas[name].detach()).to(flat.dtype)
    return twin


def bits(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if "branches." not in name}


def same_bits(model: nn.Module, saved: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(p, saved[name]) for name, p in model.named_parameters() if "branches." not in name)


@pytest.mark.parametrize("share", [0.02, 0.4, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_gradients_of_every_kind_of_tensor_equal_autograds(share, seed):
    """Linear, Conv1D-like, embedding (tied to a head), LayerNorm, bias, convolution, MultiheadAttention, a bare parameter."""
    torch.manual_seed(seed)
    model = Mixed().double()
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=max(1, int(share * eligible_scalars(model))), seed=seed))
    move(adapter)
    ids = torch.randint(0, 11, (3, 7))
    twin = tuned(base, adapter)
    twin(ids).square().mean().backward()
    model(ids).square().mean().backward()
    dense = dict(twin.named_parameters())
    if share == 1.0:
        assert set(adapter.deltas) == set(dense)
    for name, index in adapter.positions.items():
        assert adapter.deltas[name].dtype == torch.float64
        expected = dense[name].grad.view(-1)[index]
        assert float((adapter.deltas[name].grad - expected).abs().max()) <= 1e-9, name
    assert any(float(delta.grad.abs().max()) > 1e-6 for delta in adapter.deltas.values())
    assert all(p.grad is None for name, p in model.named_parameters() if "branches." not in name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unselected_scalars_do_not_move_by_a_bit_and_selected_ones_hold_base_plus_delta(dtype):
    torch.manual_seed(0)
    model = Mixed().to(dtype)
    base = bits(model)
    adapter = attach(model, APET(budget=200))
    optimizer = torch.optim.AdamW(adapter.param_groups(lr=1e-2, weight_decay=0.1))
    for step in range(5):
        optimizer.zero_grad()
        model(
            torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(step))
        ).float().square().mean().backward()
        optimizer.step()
    moved = 0
    for name, p in model.named_parameters():
        if "branches." in name:
            continue
        expected = base[name].clone()
        if name in adapter.positions:
            index, delta = adapter.positions[name], adapter.deltas[name].detach()
            assert delta.dtype == torch.float32 and delta.abs().max() > 0
            expected.view(-1)[index] = (expected.view(-1)[index].float() + delta).to(dtype)
            moved += int((expected != base[name]).sum())
        assert torch.equal(p, expected), name
    assert moved > 50


def test_training_equals_dense_training_under_a_mask():
    """A plain dense model whose gradients are masked, trained by the same AdamW, gives the same losses."""
    torch.manual_seed(0)
    model = Mixed()
    adapter = attach(twin_of := copy.deepcopy(model), APET(budget=150))
    masks = {name: torch.zeros(p.numel()) for name, p in model.named_parameters()}
    for name, index in adapter.positions.items():
        masks[name][index] = 1.0
    dense = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    sparse = torch.optim.AdamW(adapter.param_groups(lr=1e-2))
    losses: list[list[float]] = [[], []]
    for step in range(30):
        ids = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(step))
        for kind, (net, optimizer) in enumerate(((model, dense), (twin_of, sparse))):
            optimizer.zero_grad()
            loss = (net(ids) - 0.5).square().mean()
            loss.backward()
            if net is model:
                for name, p in model.named_parameters():
                    p.grad.mul_(masks[name].view_as(p))
            optimizer.step()
            losses[kind].append(float(loss.detach()))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[1][-1] < 0.9 * losses[1][0]


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


def test_the_base_comes_back_bit_for_bit_after_1000_cycles_in_bf16():
    torch.manual_seed(0)
    model = Toy().to(torch.bfloat16)
    base, keys = bits(model), list(model.state_dict())
    adapter = attach(model, APET(budget=300))
    g = torch.Generator().manual_seed(0)
    for cycle in range(1000):
        for delta in adapter.deltas.values():
            delta.data.add_(torch.randn(delta.shape, generator=g) * 0.01)
        adapter.sync()
        live = bits(model)
        assert adapter.merge(reversible=True) == 300 * 2
        adapter.unmerge()
        with adapter.disabled():
            assert same_bits(model, base)
        assert same_bits(model, live) and not same_bits(model, base), cycle
    adapter.detach()
    assert same_bits(model, base) and list(model.state_dict()) == keys
    assert type(model.blocks[0]["up"]) is nn.Linear and not find_adapters(model)


def test_merged_weights_stay_and_are_not_trained():
    model, x = Toy(), torch.randn(4, 12)
    adapter = attach(model, APET(budget=80))
    move(adapter)
    out = model(x)
    assert adapter.merge() == 0 and not model(x).requires_grad
    with pytest.raises(RuntimeError, match=r"unmerge\(\) before disabled"), adapter.disabled():
        pass
    with pytest.raises(RuntimeError, match="without reversible=True"):
        adapter.unmerge()
    with pytest.raises(RuntimeError, match="merged already"):
        adapter.merge()
    adapter.detach()
    assert torch.equal(model(x), out)
    adapter = attach(model, APET(budget=80))
    adapter.merge(reversible=True)
    with pytest.raises(RuntimeError, match="merged with a copy"):
        adapter.detach()
    adapter.unmerge()
    adapter.detach()
    with pytest.raises(RuntimeError, match="not attached any more"):
        adapter.site  # noqa: B018


def test_tied_tensors_are_counted_once_and_trained_as_one():
    model = Mixed()
    assert model.out.weight is model.embedding.weight
    adapter = attach(model, APET(budget=11 * 8, targets=r"embedding\.weight"))
    assert eligible_scalars(model, r"out\.weight") == 11 * 8, "either name selects the tensor"
    assert list(adapter.deltas) == ["embedding.weight"] and adapter.trainable_parameters() == 88
    assert [key for key in model.state_dict() if "delta" in key] == ["embedding.branches.default.delta_weight"]
    model(torch.tensor([[1, 2]])).sum().backward()
    gradient = adapter.deltas["embedding.weight"].grad.view(11, 8)
    assert gradient[1].abs().max() > 0 and gradient[9].abs().max() > 0, "row 9 is only used by the head"
    adapter.detach()
    assert type(model.out) is nn.Linear and type(model.embedding) is nn.Embedding


def test_a_low_rank_adapter_beside_it():
    torch.manual_seed(0)
    model, x = Toy(), torch.randn(4, 12)
    base = bits(model)
    sparse = attach(model, APET(budget=400), name="sparse")
    low = attach(model, LoRA(rank=2), name="low")
    move(sparse)
    for branch in low.branches.values():
        nn.init.normal_(branch.lora_b, std=0.1)
    both = model(x)
    both.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in low.branches["blocks.0.up"].parameters())
    assert sparse.deltas["blocks.0.up.weight"].grad.abs().max() > 0
    with sparse.disabled():
        one = model(x)
    with low.disabled():
        other = model(x)
    assert difference(both, one) > 1e-4 and difference(both, other) > 1e-4
    with pytest.raises(RuntimeError, match="trained by an APET adapter"):
        low.merge()
    sparse.detach()
    torch.testing.assert_close(model(x), one)
    low.detach()
    assert same_bits(model, base)


def test_heads_are_trained_beside_it_and_not_eligible():
    model = Toy()
    adapter = attach(model, APET(budget=50, selection="per_module"), train=("head",))
    assert adapter.head_names == ["head"] and not any(name.startswith("head") for name in adapter.deltas)
    assert {group["name"] for group in adapter.param_groups(1e-3)} == {"sparse", "heads", "heads_no_decay"}
    assert adapter.trainable_parameters() == 50 + 12 * 3 + 3
    assert model.head.weight.requires_grad and not model.blocks[0]["up"]._parameters["weight"].requires_grad


def test_copies_are_independent_and_keep_training():
    model, x = Toy(), torch.randn(2, 12)
    adapter = attach(model, APET(budget=80))
    move(adapter)
    before = model(x).detach()
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied = find_adapters(other)[0]
        optimizer = torch.optim.SGD(copied.param_groups(lr=0.1))
        other(x).sum().backward()
        optimizer.step()
        assert not torch.equal(other(x), before) and torch.equal(model(x), before)
        with copied.disabled():
            reference = other(x)
        with adapter.disabled():
            assert torch.equal(model(x), reference)


def test_a_dropped_model_is_freed():
    model = Toy()
    adapter = attach(model, APET(budget=10))
    gone = weakref.ref(model)
    del model, adapter
    gc.collect()
    assert gone() is None


def test_dtype_and_move_keep_delta_wide_and_the_weights_live():
    model = Toy()
    base = copy.deepcopy(model)
    adapter = attach(model, APET(budget=80))
    move(adapter, 1e-3)
    model.to(torch.bfloat16)
    assert all(delta.dtype == torch.float32 for delta in adapter.deltas.values())
    assert same_bits(model, bits(tuned(base.to(torch.bfloat16), adapter)))
    with adapter.disabled():
        assert same_bits(model, bits(base))
    model.float()
    assert same_bits(model, bits(tuned(base.float(), adapter))), "δ is not lost in the rounding to bf16"


def test_weights_written_by_others_before_the_first_forward_become_the_base():
    """As DDP does, which sends rank 0's parameters to the other ranks when it wraps the model."""
    model, other = Toy(), Toy()
    adapter = attach(model, APET(budget=80))
    with torch.no_grad():
        for (name, p), q in zip(other.named_parameters(), other.parameters(), strict=True):
            model.get_submodule(name.rpartition(".")[0])._parameters[name.rpartition(".")[2]].copy_(q)
    x = torch.randn(2, 12)
    assert torch.equal(model(x), other(x))
    move(adapter)
    with adapter.disabled():
        assert torch.equal(model(x), other(x))


def test_ranks_are_refused_with_one_clear_error():
    adapter = attach(Toy(), APET(budget=10))
    assert adapter.gates == [] and adapter.penalty() == 0.0
    for call in (adapter.prune, adapter.rank_table):
        with pytest.raises(RuntimeError, match="APET has no ranks"):
            call()


def test_idle_scalars_are_named_after_the_first_step(caplog):
    class Sleepy(Toy):
        def __init__(self):
            super().__init__()
            self.pooler = nn.Linear(12, 12)

    model = Sleepy()
    adapter = attach(model, APET(budget=100, selection="per_module"))
    optimizer = torch.optim.SGD(adapter.param_groups(lr=0.1))
    for _ in range(2):
        model(torch.randn(2, 12)).sum().backward()
        optimizer.step()
    messages = [r.message for r in caplog.records if "got no gradient" in r.message]
    assert len(messages) == 1 and "pooler." in messages[0]


def test_compiled_model_gives_the_same_gradients():
    torch.manual_seed(0)
    model, x = Toy(), torch.randn(5, 12)
    adapter = attach(model, APET(budget=300))
    move(adapter)
    (model(x) - 1).square().mean().backward()
    eager = [delta.grad.clone() for delta in adapter.deltas.values()]
    model.zero_grad()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = torch.optim.SGD(adapter.param_groups(lr=0.1))
    loss = (compiled(x) - 1).square().mean()
    loss.backward()
    torch.testing.assert_close([delta.grad for delta in adapter.deltas.values()], eager)
    optimizer.step()
    assert float((compiled(x) - 1).square().mean().detach()) < float(loss.detach())
    with adapter.disabled():
        reference = compiled(x)
        torch.testing.assert_close(reference, model(x))
