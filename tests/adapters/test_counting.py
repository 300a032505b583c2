"""Parameters are counted as scalars: packed layers as inputs × outputs, shared parameters once."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch import nn

from fulgurite.adapters.counting import scalars, scalars_in
from fulgurite.lightning_modules.checks.trained import what_is_trained


class Packed(nn.Module):
    """A layer of 8 x 6 weights of 4 bits, as bitsandbytes keeps them: two in a byte."""

    def __init__(self, known: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = 8, 6
        self.weight = nn.Parameter(torch.zeros(24, 1, dtype=torch.uint8), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(6))
        if known:
            self.weight.quant_state = SimpleNamespace(shape=torch.Size([6, 8]))


def test_packed_layers_count_as_what_they_stand_for():
    for known in (True, False):
        layer = Packed(known)
        model = nn.Sequential(layer, nn.Linear(6, 2))
        assert scalars_in(model) == 48 + 6 + 14
        assert scalars_in(model, trained=True) == 6 + 14
        assert what_is_trained(model, None).startswith("training 20 of 68 parameters (29.41 %): the whole network")
    assert scalars(Packed(True).weight) == 48


def test_shared_parameters_count_once():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert scalars_in(nn.Sequential(first, second)) == 15


def test_memory_of_masters_is_stated():
    model = nn.Linear(1024, 1024, bias=False)
    assert what_is_trained(model, None).endswith("gradients 4.0 MiB, optimizer 8.0 MiB")
    found = what_is_trained(model.bfloat16(), None)
    assert found.endswith("gradients 2.0 MiB, optimizer 12.0 MiB, with float32 masters of what is in bfloat16")
