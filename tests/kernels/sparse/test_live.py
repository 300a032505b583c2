"""AdamW on a flat δ that writes the live weights, in plain PyTorch: against its twin in float64 and torch.optim.AdamW."""

from __future__ import annotations

import pytest
import torch

from fulgurite.kernels import LiveWeights, reference, sparse_adamw_step_

HYPER = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1}


def live_weights(dtype, sizes=(5, 0, 700, 1), seed=0):
    g = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(max(2 * n, 4), generator=g).to(dtype).view(2, -1) for n in sizes]
    indexes = [torch.randperm(t.numel(), generator=g)[:n].sort()[0] for t, n in zip(tensors, sizes, strict=True)]
    return LiveWeights(tensors, indexes, [t.view(-1)[i].clone() for t, i in zip(tensors, indexes, strict=True)])


def steps(function, live, count, dtype):
    n = live.base.numel()
    delta, mean, square = (torch.zeros(n, dtype=dtype) for _ in range(3))
    step = torch.zeros(())
    for i in range(count):
        grad = torch.sin(torch.arange(n, dtype=torch.float64) + i).to(dtype)
        function(delta, grad, mean, square, live, step=step, **HYPER)
    assert float(step) == count
    return {"delta": delta, "exp_avg": mean, "exp_avg_sq": square}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_equals_its_twin_and_writes_every_tensor(dtype):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    live = live_weights(dtype)
    before = [t.clone() for t in live.tensors]
    ours = steps(sparse_adamw_step_, live, 20, wide)
    twin = steps(reference.sparse_adamw_step_, live_weights(dtype), 20, torch.float64)
    for name, value in ours.items():
        torch.testing.assert_close(value.double(), twin[name], rtol=1e-5, atol=1e-9 if wide == torch.float64 else 3e-7)
    for tensor, old, index, base, delta in zip(
        live.tensors, before, live.indexes, live.bases, ours["delta"].split([5, 0, 700, 1]), strict=True
    ):
        expected = old.clone().view(-1)
        expected[index] = (base.to(wide) + delta).to(dtype)
        assert torch.equal(tensor.view(-1), expected)
    live.write_(None)
    assert all(torch.equal(t, old) for t, old in zip(live.tensors, before, strict=True))


def test_equals_torch_adamw():
    live = live_weights(torch.float32)
    n = live.base.numel()
    parameter = torch.nn.Parameter(torch.zeros(n))
    optimizer = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.1)
    for i in range(7):
        parameter.grad = torch.sin(torch.arange(n, dtype=torch.float64) + i).float()
        optimizer.step()
    torch.testing.assert_close(steps(sparse_adamw_step_, live, 7, torch.float32)["delta"], parameter.detach())


def test_writes_raise_no_version():
    live = live_weights(torch.float32)
    versions = [t._version for t in live.tensors]
    steps(sparse_adamw_step_, live, 2, torch.float32)
    assert versions == [t._version for t in live.tensors]


def test_indexes_and_bases_are_views_of_the_arenas():
    live = live_weights(torch.bfloat16)
    assert live.indexes[2].data_ptr() == live.positions[5:].data_ptr()
    assert live.bases[2].data_ptr() == live.base[5:].data_ptr()


def test_what_does_not_fit_is_named():
    weight, index = torch.zeros(4, 4), torch.tensor([1, 2])
    with pytest.raises(ValueError, match="1 tensors, 0 indexes, 1 bases"):
        LiveWeights([weight], [], [torch.zeros(2)])
    with pytest.raises(ValueError, match=r"tensors of torch.bfloat16 on cpu, torch.float32 on cpu; make one for each"):
        LiveWeights([weight, weight.bfloat16()], [index] * 2, [torch.zeros(2), torch.zeros(2).bfloat16()])
    with pytest.raises(ValueError, match="one value per position in the tensor's dtype"):
        LiveWeights([weight], [index], [torch.zeros(2).bfloat16()])
    with pytest.raises(ValueError, match="must be contiguous"):
        LiveWeights([torch.zeros(4, 3).t()], [index], [torch.zeros(2)])
    live, two = LiveWeights([weight], [index], [torch.zeros(2)]), torch.zeros(2)
    with pytest.raises(ValueError, match=r"grad \(3,\).*want \(2,\) each"):
        sparse_adamw_step_(two, torch.zeros(3), two, two, live, step=torch.zeros(()), **HYPER)
