"""Writes of base + δ into live weights."""

from __future__ import annotations

import pytest
import torch

from fulgurite.kernels import write_live_


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("count", [0, 1, 700])
def test_the_sum_is_rounded_once_and_the_base_comes_back_bit_for_bit(dtype, count):
    g = torch.Generator().manual_seed(0)
    tensor = torch.randn(2, 800, generator=g).to(dtype)
    index = torch.randperm(tensor.numel(), generator=g)[:count].sort()[0]
    before, base = tensor.clone(), tensor.view(-1)[index].clone()
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    delta = torch.randn(count, generator=g).to(wide)
    write_live_(tensor, index, base, delta)
    expected = before.clone().view(-1)
    expected[index] = (base.to(wide) + delta).to(dtype)
    assert torch.equal(tensor.view(-1), expected)
    write_live_(tensor, index, base)
    assert torch.equal(tensor, before)


def test_writes_raise_no_version():
    tensor, index = torch.zeros(4, 4), torch.tensor([1, 2])
    version = tensor._version
    write_live_(tensor, index, torch.zeros(2), torch.ones(2))
    assert tensor._version == version and tensor[0, 1] == 1


def test_what_does_not_fit_is_named():
    weight, index = torch.zeros(4, 4), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="one value per position in the tensor's dtype"):
        write_live_(weight, index, torch.zeros(2).bfloat16())
    with pytest.raises(ValueError, match="must be contiguous"):
        write_live_(torch.zeros(4, 3).t(), index, torch.zeros(2))
    with pytest.raises(ValueError, match=r"delta \(3,\) for 2 positions"):
        write_live_(weight, index, torch.zeros(2), torch.zeros(3))
