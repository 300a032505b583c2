"""The one-launch AdamW on δ that writes the live weights, in Triton, against its twin. Runs like test_triton_gated_lora.py."""

from __future__ import annotations

import os

import pytest
import torch

from fulgurite.kernels import LiveWeights, reference, sparse_adamw_step_, use_backend

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a GPU; test_triton_interpreter.py runs this file without one", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


@pytest.fixture(autouse=True)
def _triton(_restore_global_state):
    use_backend("triton")


def live_weights(dtype, sizes):
    g = torch.Generator().manual_seed(0)
    tensors = [torch.randn(2, max(n, 2), generator=g).to(dtype).to(DEVICE) for n in sizes]
    indexes = [
        torch.randperm(t.numel(), generator=g)[:n].sort()[0].to(DEVICE) for t, n in zip(tensors, sizes, strict=True)
    ]
    return LiveWeights(tensors, indexes, [t.view(-1)[i].clone() for t, i in zip(tensors, indexes, strict=True)])


def steps(function, live, count, dtype, **options):
    hyper = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1, **options}
    n = live.base.numel()
    delta, mean, square = (torch.zeros(n, dtype=dtype, device=DEVICE) for _ in range(3))
    step = torch.zeros(())
    for i in range(count):
        grad = torch.sin(torch.arange(n, dtype=torch.float64, device=DEVICE) + i).to(dtype)
        function(delta, grad, mean, square, live, step=step, **hyper)
    assert float(step) == count
    return {"delta": delta, "exp_avg": mean, "exp_avg_sq": square}


@DTYPES
@pytest.mark.parametrize("sizes", [(5,), (1, 0, 1500, 7), (1024, 1025, 3000)], ids=str)
@pytest.mark.parametrize("options", [{}, {"beta1": 0.0, "weight_decay": 0.0}], ids=str)
def test_equals_its_twin_and_writes_every_tensor(dtype, sizes, options):
    live = live_weights(dtype, sizes)
    expected = [t.clone().view(-1) for t in live.tensors]
    ours = steps(sparse_adamw_step_, live, 10, torch.float32, **options)
    use_backend("torch")
    twin = steps(reference.sparse_adamw_step_, live_weights(dtype, sizes), 10, torch.float64, **options)
    for name, value in ours.items():
        torch.testing.assert_close(value.double(), twin[name], rtol=1e-5, atol=3e-7)
    shares = ours["delta"].split(list(sizes))
    for tensor, want, index, base, delta in zip(live.tensors, expected, live.indexes, live.bases, shares, strict=True):
        want[index] = (base.float() + delta).to(dtype)
        assert torch.equal(tensor.view(-1), want)  # rounded to nearest even, and nothing else touched


def test_a_weight_that_moved_is_found_again():
    live = live_weights(torch.float32, (40, 60))
    steps(sparse_adamw_step_, live, 1, torch.float32)
    old = live.tensors[1].data
    live.tensors[1].data = old.clone()
    kept = old.clone()
    steps(sparse_adamw_step_, live, 3, torch.float32)
    assert torch.equal(old, kept) and not torch.equal(live.tensors[1], kept)


def test_nothing_to_train():
    live = live_weights(torch.float32, (0, 0))
    before = [t.clone() for t in live.tensors]
    steps(sparse_adamw_step_, live, 1, torch.float32)
    assert all(torch.equal(t, b) for t, b in zip(live.tensors, before, strict=True))


def test_float64_is_refused():
    with pytest.raises(RuntimeError, match=r"delta is torch\.float64"):
        steps(sparse_adamw_step_, live_weights(torch.float32, (3,)), 1, torch.float64)
