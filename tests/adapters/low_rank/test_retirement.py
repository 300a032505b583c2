"""Dead ranks: counted, retired, cut out, and never seen again; live ones are not disturbed."""

from __future__ import annotations

import copy

import pytest
import torch

from fulgurite.adapters import LoRA, SoRA, attach
from fulgurite.optim import ProximalAdamW
from tests.adapters.toys import Toy, difference, wake


def build(**options):
    torch.manual_seed(0)
    model = Toy()
    adapter = attach(
        model, SoRA(rank=6, **{"threshold": 0.0, "patience": 4, "look_every": 2, **options}), train=("head",)
    )
    wake(adapter, dead=0.0)
    optimizer = ProximalAdamW(adapter.param_groups(lr=1e-2, weight_decay=0.1))
    return model, adapter, optimizer


def train(model, optimizer, steps, start=0):
    losses = []
    for step in range(start, start + steps):
        g = torch.Generator().manual_seed(step)
        x = torch.randn(16, 12, generator=g)
        loss = (model(x) - torch.sin(x[:, :3])).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def test_retired_after_patience_and_only_then():
    model, adapter, optimizer = build(threshold=9.0)  # every gate dies at once and stays dead
    adapter.watch(optimizer)
    train(model, optimizer, 2)
    assert all(row.nonzero == 0 and row.live == 6 for row in adapter.rank_table())
    train(model, optimizer, 2)
    assert all(row.live == 0 and row.parameters_kept == 0 for row in adapter.rank_table())
    losses = train(model, optimizer, 20)
    assert losses[-1] < losses[0], "the head still trains when no rank is left"


def test_patience_zero_never_retires():
    model, adapter, optimizer = build(threshold=9.0, patience=0)
    adapter.watch(optimizer)
    train(model, optimizer, 10)
    assert all(row.live == 6 for row in adapter.rank_table())


def test_a_gate_that_comes_back_starts_its_patience_anew():
    _, adapter, optimizer = build()
    gate = adapter.branches["blocks.0.up"].gate
    with torch.no_grad():
        gate[2] = 0
    for _ in range(2):
        adapter.after_step(optimizer)
    with torch.no_grad():
        gate[2] = 0.1
    for _ in range(2):
        adapter.after_step(optimizer)
    with torch.no_grad():
        gate[2] = 0
    assert not any(adapter.after_step(optimizer) for _ in range(2))
    assert any(adapter.after_step(optimizer) for _ in range(2))
    assert adapter.branches["blocks.0.up"].live == 5


@pytest.mark.parametrize("cut", [False, True], ids=["leading slice", "cut out"])
def test_retiring_dead_ranks_does_not_change_training(cut):
    """Frozen-zero ranks contribute nothing: training with and without retiring them gives the same losses."""
    model, adapter, optimizer = build()
    train(model, optimizer, 5)
    with torch.no_grad():
        for branch in adapter.branches.values():
            branch.gate[1] = branch.gate[4] = 0
    slow = copy.deepcopy((model, adapter, optimizer))
    for branch in adapter.branches.values():
        branch.retire([1, 4], optimizer)
    if cut:
        adapter.shrink(optimizer)
        assert adapter.branches["blocks.0.up"].lora_a.shape == (4, 12)
    x = torch.randn(7, 12)
    assert difference(model(x), slow[0](x)) < 1e-6
    fast_losses, slow_losses = [], []
    for step in range(20):
        fast_losses += train(model, optimizer, 1, 100 + step)
        slow_losses += train(slow[0], slow[2], 1, 100 + step)
        with torch.no_grad():  # the slow model's dead gates are held at zero by hand
            for branch in slow[1].branches.values():
                branch.gate[1] = branch.gate[4] = 0
                for state in (slow[2].state[branch.gate],):
                    state["exp_avg"][[1, 4]] = 0
                    state["exp_avg_sq"][[1, 4]] = 0
    assert fast_losses == pytest.approx(slow_losses, rel=1e-4)
    if not cut:
        branch = adapter.branches["blocks.0.up"]
        assert not branch.gate[4:].any() and not branch.lora_a[4:].any(), "nothing revives what was retired"


def test_prune_keeps_the_output_and_counts_exactly():
    model, adapter, optimizer = build()
    wake(adapter, dead=0.5)
    with torch.no_grad():
        adapter.branches["blocks.1.down"].gate.zero_()
    x = torch.randn(7, 12)
    before, table = model(x), adapter.rank_table()
    zeros = sum(int((gate == 0).sum()) for gate in adapter.gates)
    assert adapter.prune(optimizer) == zeros
    assert difference(model(x), before) < 1e-6
    for row, (name, branch) in zip(table, adapter.branches.items(), strict=True):
        assert row.module == name and row.nonzero == branch.lora_a.shape[0]
        assert row.parameters_kept == sum(p.numel() for p in branch.parameters())
        assert row.parameters == 6 * (12 + 24) + 6
    train(model, optimizer, 3)


def test_lora_rows_all_count():
    adapter = attach(Toy(), LoRA(rank=3))
    assert [(row.nonzero, row.parameters) for row in adapter.rank_table()] == [(3, 3 * 36)] * 4
    assert adapter.prune() == 0 and adapter.penalty() == 0.0


def test_number_of_nonzeros_falls_with_the_threshold():
    counts = []
    for threshold in (0.0, 5e-3, 2e-2, 8e-2):
        model, adapter, optimizer = build(threshold=threshold)
        train(model, optimizer, 30)
        counts.append(sum(row.nonzero for row in adapter.rank_table()))
    assert counts == sorted(counts, reverse=True) and counts[0] == 24 and counts[-1] < counts[0]


def test_penalty_is_the_released_term():
    _, adapter, _ = build(l1=10.0)
    gates = torch.cat([g.detach() for g in adapter.gates])
    assert float(adapter.penalty().detach()) == pytest.approx(10 * float(gates.abs().sum()) / len(gates))


def test_saved_state_restores_counters_and_size():
    model, adapter, optimizer = build()
    with torch.no_grad():
        adapter.branches["blocks.0.up"].gate[:3] = 0
    for _ in range(2):
        adapter.after_step(optimizer)
    adapter.branches["blocks.1.up"].retire([0], optimizer)
    adapter.shrink(optimizer)
    other, fresh, _ = build()
    other.load_state_dict(model.state_dict())
    x = torch.randn(3, 12)
    assert torch.equal(other(x), model(x))
    assert fresh.branches["blocks.0.up"].zero_for == [2, 2, 2, 0, 0, 0]
    assert fresh.branches["blocks.1.up"].lora_a.shape == (5, 12) and fresh._clock.steps == 2
