"""A second derivative is never dropped without a word, also where the incoming gradient is a constant."""

from __future__ import annotations

import pytest
import torch

from fulgurite.kernels import (
    fused_log_probs,
    gated_lora_linear,
    linear_cross_entropy,
    linear_log_probs,
    live_values,
    sparse_delta_embedding,
    sparse_delta_linear,
)

G = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=G).requires_grad_()


H, W, TARGETS, INDEX, DELTA = random(5, 8), random(11, 8), torch.tensor([0, 3, 10, 2, 2]), torch.arange(6), random(6)
CALLS = {
    "cross entropy": (H, lambda: linear_cross_entropy(H, W, TARGETS)),
    "log-probs": (H, lambda: linear_log_probs(H, W, TARGETS).sum()),
    "log-probs, frozen head": (H, lambda: linear_log_probs(H, W.detach(), TARGETS).sum()),
    "fused": (H, lambda: fused_log_probs([H, H], [W.detach()] * 2, torch.zeros(5, 2), TARGETS).sum()),
    "low-rank": (H, lambda: gated_lora_linear(H, W.detach(), None, A, GATE, B, 2.0, 0.0).sum()),
    "sparse linear": (DELTA, lambda: sparse_delta_linear(H, W.detach(), None, DELTA, INDEX).sum()),
    "sparse embedding": (DELTA, lambda: sparse_delta_embedding(TARGETS, W.detach(), DELTA, INDEX).sum()),
    "live values": (DELTA, lambda: live_values(W.detach(), DELTA, INDEX).sum()),
}
AT_ONCE = ("cross entropy", "log-probs", "log-probs, frozen head", "fused")
LINEAR = ("sparse embedding", "live values")
A, GATE, B = random(2, 8), random(2), random(11, 2)


@pytest.mark.parametrize("name", CALLS)
def test_a_penalty_on_the_gradient_raises(name):
    leaf, call = CALLS[name]
    (plain,) = torch.autograd.grad(call(), leaf)
    if name in AT_ONCE:
        with pytest.raises(RuntimeError, match="no second derivative"):
            torch.autograd.grad(call(), leaf, create_graph=True)
        return
    loss = call()
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    assert torch.equal(gradient, plain)
    if name in LINEAR:
        assert not gradient.requires_grad, "it is a constant"
        return
    leaf = H
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss + 10 * gradient.square().sum(), leaf)
