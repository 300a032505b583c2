"""Layers that read one input share what their backward makes of it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from fulgurite.kernels import plan_sparse_delta, reference, sparse_delta_linear
from fulgurite.kernels.sparse.gradient import TOGETHER, TOKENS, Chunks, SharedChunks, transposed_chunks
from tests.kernels.sparse.sparse_cases import TELLS, make, positions, tells_of_hooks

N, K = 48, 64  # 60 of 3072 scalars: sampled products in every dtype


def _layers(dtype, transposed, count=3):
    """As many layers, (weight, delta, index, plan) each."""
    found = []
    for seed in range(count):
        t = make((1, K), N, 60, dtype, transposed=transposed, bias=False, index=positions(60, N * K, seed), seed=seed)
        found.append((t["weight"], t["delta"], t["index"], plan_sparse_delta(t["index"], tuple(t["weight"].shape))))
    return found


def _outputs(x, layers, transposed):
    h = F.layer_norm(2.0 * x, (K,))  # no product: it is kept, once for all
    return [sparse_delta_linear(h, w, None, d, i, transposed=transposed, plan=p) for w, d, i, p in layers]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    "tokens", [0, 1, TOKENS - 1, TOKENS, TOKENS + 5, TOGETHER * TOKENS, 3 * TOGETHER * TOKENS + TOKENS + 7]
)
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut out of something wider"])
def test_chunks_are_the_transposed_side(tokens, dtype, cut, poisoned_memory):
    side = torch.randn(tokens + 3, 21, generator=torch.Generator().manual_seed(0)).to(dtype)
    side = side[2 : 2 + tokens, 3:16] if cut else side[2 : 2 + tokens]
    chunks = list(transposed_chunks(side))
    assert all(c.is_contiguous() and c.dtype == torch.promote_types(dtype, torch.float32) for c in chunks)
    assert torch.equal(torch.cat(chunks, 1), side.t().to(chunks[0].dtype))
    assert max(c.shape[1] for c in chunks) <= TOKENS


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [0, 5, TOKENS + 3])
def test_three_layers_on_one_input(tokens, dtype, transposed, monkeypatch):
    made = []
    of = Chunks.of.__func__
    monkeypatch.setattr(Chunks, "of", classmethod(lambda cls, side: made.append(1) or of(cls, side)))
    layers = _layers(dtype, transposed)
    x = torch.randn(tokens, K, generator=torch.Generator().manual_seed(9)).to(dtype).requires_grad_()
    loss = sum((k + 1) * y.square().sum() for k, y in enumerate(_outputs(x, layers, transposed)))
    inputs = [x, *(delta for _, delta, _, _ in layers)]
    grads = torch.autograd.grad(loss, inputs, retain_graph=True)
    assert len(made) == TELLS
    for mine, again in zip(grads, torch.autograd.grad(loss, inputs), strict=True):
        assert torch.equal(mine, again)
    assert len(made) == 2 * TELLS, "each backward makes them once"

    wide = x.detach().double().requires_grad_()
    h = F.layer_norm(2.0 * wide, (K,))
    deltas = [delta.detach().double().requires_grad_() for _, delta, _, _ in layers]
    truth = sum(
        (k + 1)
        * reference.sparse_delta_linear(h, w.detach().double(), None, d, i, transposed=transposed).square().sum()
        for k, ((w, _, i, _), d) in enumerate(zip(layers, deltas, strict=True))
    )
    for mine, theirs in zip(grads, torch.autograd.grad(truth, [wide, *deltas]), strict=True):
        bound = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
        assert (mine.double() - theirs).norm() <= bound * max(theirs.norm(), 1.0)


def test_a_layer_that_has_no_backward_costs_no_other_its_gradient():
    layers = _layers(torch.float32, False)
    x = torch.randn(5, K, requires_grad=True)
    first, second, _ = _outputs(x, layers, False)
    found = torch.autograd.grad(first.sum() + second.sum(), [layers[0][1], layers[1][1]])
    for (w, d, i, p), mine in zip(layers, found, strict=False):
        alone = sparse_delta_linear(F.layer_norm(2.0 * x, (K,)), w, None, d, i, plan=p).sum()
        torch.testing.assert_close(mine, torch.autograd.grad(alone, d)[0], rtol=1e-6, atol=1e-6)


@tells_of_hooks
def test_nothing_of_the_graph_is_held():
    layers = _layers(torch.float32, False)
    x = torch.randn(5, K, requires_grad=True)
    outputs = _outputs(x, layers, False)
    shared = weakref.ref(outputs[0].grad_fn.next_functions[0][0].shared)
    assert isinstance(shared(), SharedChunks) and shared().readers == 3
    torch.autograd.grad(outputs[0].sum() + outputs[1].sum(), layers[0][1])
    gc.disable()
    try:
        del outputs
        assert shared() is None, "freed by counting references alone"
    finally:
        gc.enable()


def test_inputs_that_only_look_alike_are_not_mixed_up():
    """Two outputs of one node, and an input changed in place between two layers."""
    layers = _layers(torch.float64, False, 2)
    x = torch.randn(5, 2 * K, dtype=torch.float64, requires_grad=True)
    one, two = (2.0 * x).split(K, dim=1)
    (w0, d0, i0, p0), (w1, d1, i1, p1) = layers
    y = sparse_delta_linear(one, w0, None, d0, i0, plan=p0) + sparse_delta_linear(two, w1, None, d1, i1, plan=p1)
    half = 2.0 * x.detach()
    dy = torch.ones(5, N, dtype=torch.float64)
    for grad, part, index in zip(torch.autograd.grad(y.sum(), [d0, d1]), half.split(K, dim=1), (i0, i1), strict=True):
        assert torch.allclose(grad, (dy.t() @ part).view(-1)[index])

    h = (2.0 * x)[:, :K] * 1.0
    before = h.detach().clone()
    y = sparse_delta_linear(h.clone(), w0, None, d0, i0, plan=p0)
    g = h.add_(1.0)
    z = sparse_delta_linear(g, w1, None, d1, i1, plan=p1)
    first, second = torch.autograd.grad(y.sum() + z.sum(), [d0, d1])
    assert torch.allclose(first, (dy.t() @ before).view(-1)[i0])
    assert torch.allclose(second, (dy.t() @ (before + 1.0)).view(-1)[i1])
