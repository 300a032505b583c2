"""Inputs that sparse layers compute again from what autograd keeps anyway, instead of keeping them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint

from fulgurite.kernels import plan_sparse_delta, reference, sparse_delta_linear
from tests.kernels.sparse.sparse_cases import TELLS, make, tells_of_hooks


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Counts the bytes that autograd keeps; the hooks themselves switch the saving off, so it is entered around the product."""

    def __init__(self):
        self.bytes = 0
        super().__init__(self._pack, lambda tensor: tensor)

    def _pack(self, tensor):
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor


def _gated(x, weight, delta, index, plan, hooks=None):
    """A gated MLP's last layer; the factors need gradients, so that autograd keeps them."""
    product = F.silu(x) * (2.0 * x)
    if hooks is None:
        return sparse_delta_linear(product, weight, None, delta, index, plan=plan)
    with hooks:
        return sparse_delta_linear(product, weight, None, delta, index, plan=plan)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("hooked", [False, True])
def test_a_product_is_not_kept_but_multiplied_again(dtype, hooked):
    t = make((2, 5, 24), 16, 200, dtype, bias=False)
    plan = plan_sparse_delta(t["index"], tuple(t["weight"].shape))
    hooks = _Kept() if hooked else None
    y = _gated(t["x"], t["weight"], t["delta"], t["index"], plan, hooks)
    assert (y.grad_fn.next_functions[0][0].recipe is None) == (hooked or not TELLS)
    if hooked:
        assert hooks.bytes >= t["x"].numel() * t["x"].element_size()
    grads = torch.autograd.grad(y.square().sum(), [t["x"], t["delta"]])
    wide = {
        k: v.detach().double().requires_grad_() if v is not None and v.is_floating_point() else v for k, v in t.items()
    }
    truth = reference.sparse_delta_linear(
        F.silu(wide["x"]) * (2.0 * wide["x"]), wide["weight"], None, wide["delta"], wide["index"]
    )
    expected = torch.autograd.grad(truth.square().sum(), [wide["x"], wide["delta"]])
    for mine, theirs in zip(grads, expected, strict=True):
        error = (mine.double() - theirs).abs().max() / theirs.abs().max()
        assert error < (1e-12 if dtype == torch.float64 else 3e-2)


def test_a_product_behind_activation_checkpointing_and_autocast():
    t = make((2, 5, 24), 16, 200, torch.float32, bias=False)
    plan = plan_sparse_delta(t["index"], tuple(t["weight"].shape))

    def block(x):
        return _gated(x, t["weight"], t["delta"], t["index"], plan)

    expected = torch.autograd.grad(block(t["x"]).square().sum(), [t["x"], t["delta"]])
    again = torch.utils.checkpoint.checkpoint(block, t["x"], use_reentrant=False)
    for mine, theirs in zip(torch.autograd.grad(again.square().sum(), [t["x"], t["delta"]]), expected, strict=True):
        assert torch.equal(mine, theirs)
    with torch.autocast("cpu", torch.bfloat16):
        y = block(t["x"])
    (rough,) = torch.autograd.grad(y.float().square().sum(), [t["delta"]])
    assert (rough - expected[1]).norm() < 0.03 * expected[1].norm()


@tells_of_hooks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_norm_gives_is_not_kept_either(dtype):
    t = make((2, 5, 24), 16, 200, dtype, bias=False)
    plan = plan_sparse_delta(t["index"], tuple(t["weight"].shape))
    scale = torch.linspace(0.5, 2, 24).to(dtype)

    def normed(x):
        wide = x.float()
        return scale * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)

    y = sparse_delta_linear(normed(t["x"]), t["weight"], None, t["delta"], t["index"], plan=plan)
    recipe = y.grad_fn.next_functions[0][0].recipe
    assert torch.equal(recipe(), normed(t["x"]))
    given = normed(t["x"]).detach().requires_grad_()
    kept = sparse_delta_linear(given, t["weight"], None, t["delta"], t["index"], plan=plan)
    assert kept.grad_fn.next_functions[0][0].recipe is None
    for mine, theirs in zip(
        torch.autograd.grad(y.square().sum(), [t["delta"]]), torch.autograd.grad(kept.square().sum(), [t["delta"]])
    ):
        assert torch.equal(mine, theirs)
    # What a product is of something that was not kept, or of a number in another dtype, is kept as it is.
    for other in (t["x"] + 1, torch.relu(t["x"]) + 1, (t["x"] + 1) * scale):
        z = sparse_delta_linear(other, t["weight"], None, t["delta"], t["index"], plan=plan)
        assert z.grad_fn.next_functions[0][0].recipe is None
