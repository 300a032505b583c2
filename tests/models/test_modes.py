"""Evaluation mode for a while gives every module its own mode back."""

from __future__ import annotations

import pytest
from torch import nn

from fulgurite.models.modes import evaluation_mode


def test_every_module_gets_its_own_mode_back_also_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2)))
    model.train()
    model[1].eval()
    before = [module.training for module in model.modules()]
    with evaluation_mode(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(RuntimeError), evaluation_mode(model):
        raise RuntimeError
    assert [module.training for module in model.modules()] == before and before[0] and not before[2]
