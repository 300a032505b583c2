"""The pass of the reference over all rows leaves the network as it found it."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from fulgurite.lightning_modules.reference import whole_pass
from fulgurite.lightning_modules.reference.model import Reference


class Base:
    """A module without an adapter, whose second copies are counted."""

    adapter, dtype_name = None, "float32"

    def __init__(self) -> None:
        self.copies: list[str | None] = []

    def second_copy(self, name: str | None = None) -> nn.Module:
        self.copies.append(name)
        return nn.Linear(1, 1)


def test_modes_come_back_module_by_module():
    network = nn.Sequential(nn.Linear(1, 1), nn.Dropout())
    network.train()
    network[1].eval()  # as a frozen part of somebody's network
    trainer = SimpleNamespace(
        world_size=1,
        is_global_zero=True,
        progress_bar_callback=None,
        strategy=SimpleNamespace(batch_to_device=lambda batch, device: batch),
        precision_plugin=SimpleNamespace(forward_context=torch.no_grad),
    )
    seen = []

    def log_probs(asked, batch):
        seen.append([module.training for module in asked.modules()])
        return batch["key"].float()

    batches = [{"key": torch.tensor([3, 1])}, {"key": torch.tensor([2])}]
    keys, values = whole_pass._run(log_probs, network, trainer, [batches])
    assert keys.tolist() == [3, 1, 2] and values.tolist() == [3.0, 1.0, 2.0]
    assert seen == [[False] * 3] * 2
    assert network.training and network[0].training and not network[1].training


def test_a_second_copy_is_dropped_after_the_pass_and_held_where_steps_need_it():
    base, policy = Base(), nn.Linear(1, 1)
    reference = Reference(base, "other")
    with reference.network(policy, keep=False) as first:
        assert first is not policy
    with reference.network(policy) as second, reference.network(policy) as third:
        assert second is third is not first
    assert base.copies == ["other", "other"]
