"""Policy losses: the specification's numbers, gradients where clipping stops them, means that add over batches, refusals."""

from __future__ import annotations

import pytest
import torch

from fulgurite.losses.policy import PolicyLoss, answer_means, kl_estimate, sampler_weights, value_loss


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


NOW, OLD, REFERENCE = numbers(-1, -2, -0.5), numbers(-1.1, -2.5, -0.4), numbers(-1.2, -1.5, -0.5)
ADVANTAGES, SAMPLER = numbers(1, -2, 0.5), numbers(-1.3, -2.4, -0.9)
OWNER = torch.zeros(3, dtype=torch.int64)


def same(found, *wanted, tolerance=1e-8):
    torch.testing.assert_close(found, numbers(*wanted), rtol=0, atol=tolerance)


def test_surrogate_of_the_specification():
    found = PolicyLoss().tokens(NOW, OLD, ADVANTAGES, OWNER, 1)
    same(found.ratios, 1.105170918, 1.648721271, 0.904837418)
    same(found.losses, -1.105170918, 3.297442541, -0.452418709)


@pytest.mark.parametrize(
    ("estimate", "wanted"),
    [("k1", (0.2, -0.5, 0)), ("k2", (0.02, 0.125, 0)), ("k3", (0.018730753, 0.148721271, 0))],
)
def test_kl_estimates_of_the_specification(estimate, wanted):
    same(kl_estimate(NOW, REFERENCE, estimate), *wanted)
    with pytest.raises(ValueError, match="'k4'"):
        kl_estimate(NOW, REFERENCE, "k4")  # type: ignore[arg-type]


def test_sampler_weights_of_the_specification():
    same(sampler_weights(OLD, SAMPLER, OWNER, 1), 1.221402758, 0.904837418, 1.648721271)
    same(sampler_weights(OLD, SAMPLER, OWNER, 1, level="sequence"), *[1.822118800] * 3)
    assert float(sampler_weights(OLD, SAMPLER, OWNER, 1, cap=1.5).max()) == 1.5


def test_means_of_the_specification():
    losses, owner = numbers(0.1, 0.2, 0.3, 0.9), torch.tensor([0, 0, 0, 1])
    for mean, wanted in (("token", 0.375), ("answer", 0.55), ("constant", 0.1875)):
        loss = PolicyLoss(mean=mean, longest=4)
        total, count = loss.summed(losses, owner, 2)
        assert float(total / count) == pytest.approx(wanted)
        parts = [loss.summed(losses[:3], owner[:3], 1), loss.summed(losses[3:], owner[3:] - 1, 1)]
        assert float(sum(t for t, _ in parts) / sum(c for _, c in parts)) == pytest.approx(wanted), "parts add"


def test_value_loss_of_the_specification():
    same(value_loss(numbers(0.7, 0.2), numbers(0.5, 0.5), numbers(1, 0.1)), 0.045, 0.02)
    same(value_loss(numbers(0.2), numbers(0.5), numbers(0.1), clip=None), 0.005)


def test_clipping_stops_the_gradient_where_the_ratio_has_gone_too_far():
    ratios = numbers(1.5, 0.5, 1.5, 0.5)
    now = ratios.log().requires_grad_()
    advantages = numbers(1, 1, -1, -1)
    found = PolicyLoss(clip=0.2, clip_high=0.28).tokens(
        now, torch.zeros_like(ratios), advantages, OWNER.new_zeros(4), 1
    )
    found.losses.sum().backward()
    assert found.clipped_high.tolist() == [True, False, False, False]
    assert found.clipped_low.tolist() == [False, False, False, True]
    same(found.losses.detach(), -1.28, -0.5, 1.5, 0.8)
    same(now.grad, 0, -0.5, 1.5, 0)


def test_dual_clip_bounds_the_loss_of_a_bad_token():
    old, now = numbers(0), numbers(2).requires_grad_()
    loss = PolicyLoss(dual_clip=3).tokens(now, old, numbers(-1), OWNER[:1], 1).losses
    loss.sum().backward()
    same(loss.detach(), 3)
    same(now.grad, 0)


def test_one_ratio_per_answer():
    owner, difference = torch.tensor([0, 0, 1]), numbers(0.1, 0.3, -0.1)
    found = PolicyLoss(ratio="sequence", clip=0.5).tokens(difference, torch.zeros(3), numbers(1, 1, 1), owner, 2)
    same(found.ratios, *numbers(0.2, 0.2, -0.1).exp().tolist())
    same(answer_means(difference, owner, 3), 0.2, -0.1, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip": 0.0}, "0 < clip < 1"),
        ({"clip_high": -1.0}, "clip_high above 0"),
        ({"dual_clip": 1.1}, "at least 1"),
        ({"ratio": "answer"}, "'sequence'"),
        ({"mean": "group"}, "'constant'"),
        ({"longest": 0}, "longest=0"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        PolicyLoss(**options)


def test_weights_bring_the_gradient_of_another_sampler_back():
    """Over all tokens of a vocabulary: E_mu[w A d log pi] is E_pi[A d log pi], and without w it is another direction."""
    logits = numbers(0.3, -0.2, 0.5, 0.0).requires_grad_()
    advantages, skewed = numbers(1, -1, 0.5, 2), numbers(2, 0, -1, 0).log_softmax(-1)
    policy = logits.log_softmax(-1)
    owner = torch.arange(4)
    weights = sampler_weights(policy.detach(), skewed, owner, 4, cap=1e9)

    def gradient(chances):
        losses = PolicyLoss().tokens(policy, policy.detach(), advantages, owner, 4).losses
        return torch.autograd.grad((chances * losses).sum(), logits, retain_graph=True)[0]

    right = gradient(policy.detach().exp())
    torch.testing.assert_close(gradient(skewed.exp() * weights), right)
    assert float((gradient(skewed.exp()) - right).abs().max()) > 0.1
