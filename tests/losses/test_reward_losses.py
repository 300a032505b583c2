"""RewardLoss: terms, flags, margins, gradients, refusals. The table of known values is in test_preference_vectors.py."""

from __future__ import annotations

import pytest
import torch

from fulgurite.losses import RewardLoss

PAIRS = torch.tensor([[0, 1], [0, 2], [3, 2]])


def rewards(dtype=torch.float64):
    return torch.tensor([1.3, -0.4, 0.2, -2.0], dtype=dtype)


def log_sigmoid(value):
    return torch.log(torch.sigmoid(value))


def test_terms_by_their_formulas():
    r = rewards()
    chosen, rejected = r[PAIRS[:, 0]], r[PAIRS[:, 1]]
    margin, direct = torch.tensor([0.5, 0.0, 0.25]), torch.tensor([True, False, True])
    parts = RewardLoss(ranking_weight=0.5, direct_weight=2.0, centring=0.01)(r, PAIRS, margin=margin, direct=direct)
    expected = -0.5 * log_sigmoid(chosen - rejected - margin) + 0.01 * (chosen + rejected) ** 2
    expected = expected + 2.0 * direct * (-log_sigmoid(chosen) - log_sigmoid(-rejected))
    torch.testing.assert_close(parts.losses, expected)
    torch.testing.assert_close(parts.loss_sum, expected.sum())
    assert parts.units.item() == 3


def test_the_direct_term_is_off_without_flags():
    plain = RewardLoss()(rewards(), PAIRS).losses
    flagged = RewardLoss()(rewards(), PAIRS, direct=torch.zeros(3, dtype=torch.bool)).losses
    assert torch.equal(plain, flagged)
    torch.testing.assert_close(RewardLoss()(rewards() + 7, PAIRS).losses, plain)


def test_gradient_equals_finite_differences():
    loss, direct = RewardLoss(centring=0.1), torch.tensor([True, False, True])

    def total(values):
        return loss(
            values, PAIRS, margin=torch.full((3,), 0.3), direct=direct, weight=torch.tensor([1.0, 2, 0.5])
        ).losses

    assert torch.autograd.gradcheck(total, rewards().requires_grad_())


def test_weights_multiply_and_half_precision_is_widened():
    weight = torch.tensor([0.0, 2.0, 1.0])
    plain, weighed = RewardLoss()(rewards(), PAIRS), RewardLoss()(rewards(), PAIRS, weight=weight)
    torch.testing.assert_close(weighed.losses, plain.losses * weight)
    assert weighed.units.item() == 3
    half = RewardLoss()(rewards(torch.bfloat16), PAIRS).losses
    assert torch.equal(half, RewardLoss()(rewards(torch.bfloat16).float(), PAIRS).losses)


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_rewards_stay_finite(scale):
    r = torch.tensor([scale, -scale], requires_grad=True)
    parts = RewardLoss()(r, torch.tensor([[0, 1]]), direct=torch.tensor([True]))
    parts.loss_sum.backward()
    assert parts.loss_sum.item() == pytest.approx(0 if scale > 0 else 4e4) and r.grad.isfinite().all()


def test_no_pair_gives_zero_with_a_gradient():
    r = rewards().requires_grad_()
    parts = RewardLoss(centring=0.1)(r, torch.zeros(0, 2, dtype=torch.int64))
    parts.loss_sum.backward()
    assert parts.units.item() == 0 and torch.equal(r.grad, torch.zeros_like(r))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rewards": torch.zeros(4, 1)}, r"rewards of shape \(4, 1\)"),
        ({"pairs": torch.zeros(2, 3, dtype=torch.int64)}, r"pairs of shape \(2, 3\)"),
        ({"pairs": torch.tensor([[-1, 0]])}, "index -1"),
        ({"margin": torch.zeros(2)}, r"margin of shape \(2,\)"),
        ({"direct": torch.zeros(4, dtype=torch.bool)}, r"direct of shape \(4,\)"),
        ({"weight": torch.zeros(1)}, r"weight of shape \(1,\)"),
    ],
)
def test_data_is_refused_with_a_reason(given, message):
    with pytest.raises(ValueError, match=f"RewardLoss: {message}"):
        RewardLoss()(**({"rewards": rewards(), "pairs": PAIRS} | given))


@pytest.mark.parametrize("option", ["ranking_weight", "direct_weight", "centring"])
def test_options_are_refused_with_a_reason(option):
    with pytest.raises(ValueError, match=f"RewardLoss: {option} is -1"):
        RewardLoss(**{option: -1.0})
