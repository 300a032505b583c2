"""Who gets credit: KL in the reward, per token and per answer; the moving mean; the weight of KL and its bound; figures."""

from __future__ import annotations

import math

import pytest
import torch

from fulgurite.lightning_modules.rollouts.control import KLControl
from fulgurite.lightning_modules.rollouts.credit import Credit
from fulgurite.lightning_modules.rollouts.figures import explained_variance, kl_per_answer, mismatch
from fulgurite.losses.advantages import gae, group_relative, leave_one_out

REWARDS, GROUP, LENGTHS = torch.tensor([1.0, 0.0, 0.5, 0.25]), torch.tensor([0, 0, 1, 1]), torch.tensor([2, 1, 3, 1])
OWNER = torch.tensor([0, 0, 1, 2, 2, 2, 3])
PENALTY = torch.tensor([0.1, 0.2, 0.0, 0.3, -0.1, 0.1, 0.4])
WHOLE = torch.tensor([0.7, 0.0, 0.2, -0.15])


@pytest.mark.parametrize(
    ("estimator", "function"),
    [("rloo", leave_one_out), ("group", group_relative), ("reinforce", lambda r, g: r - r.mean())],
)
def test_kl_is_taken_off_the_reward_of_a_whole_answer(estimator, function):
    advantages, returns = Credit(estimator)(REWARDS, GROUP, LENGTHS, PENALTY)
    torch.testing.assert_close(advantages, function(WHOLE, GROUP)[OWNER])
    assert returns is None


def test_gae_takes_kl_off_at_each_token_and_gives_the_reward_to_the_last():
    values = torch.linspace(-1, 1, 7)
    advantages, returns = Credit("gae", gamma=0.9, lam=0.8, whiten=False)(REWARDS, GROUP, LENGTHS, PENALTY, values)
    steps = -PENALTY + torch.tensor([0, 1.0, 0.0, 0, 0, 0.5, 0.25])
    expected = gae(steps, values, LENGTHS, 0.9, 0.8)
    torch.testing.assert_close(advantages, expected.advantages)
    torch.testing.assert_close(returns, expected.returns)
    white, _ = Credit("gae")(REWARDS, GROUP, LENGTHS, PENALTY, values)
    assert float(white.mean()) == pytest.approx(0, abs=1e-6) and float(white.std(unbiased=False)) == pytest.approx(1)


def test_the_moving_mean_is_remembered():
    credit, nothing = Credit("reinforce", decay=0.5), torch.zeros(7)
    credit(REWARDS, GROUP, LENGTHS, nothing)
    assert credit.mean == pytest.approx(0.4375)
    advantages, _ = credit(REWARDS + 1, GROUP, LENGTHS, nothing)
    torch.testing.assert_close(advantages, (REWARDS + 1 - 0.4375)[OWNER])


def test_the_weight_of_kl_follows_its_target_in_small_steps():
    fixed, moved = KLControl(0.1), KLControl(0.1, target=2.0, horizon=100)
    fixed.update(50.0, 10)
    moved.update(50.0, 10)
    assert fixed.beta == 0.1 and moved.beta == pytest.approx(0.1 * (1 + 0.2 * 10 / 100))
    moved.update(0.0, 10)
    assert moved.beta == pytest.approx(0.1 * 1.02 * 0.98)
    assert not fixed.exceeded(1e9) and KLControl(bound=1.0).exceeded(1.1) and not KLControl(bound=1.0).exceeded(1.0)
    with pytest.raises(ValueError, match="kl_horizon=0"):
        KLControl(horizon=0)


def test_figures_of_log_probabilities_and_values():
    old, other = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.2, -1.5, -0.5])
    assert kl_per_answer(old, other, 2) == pytest.approx((0.018730753 + 0.148721271) / 2)
    found = mismatch(old, other)
    assert found["mismatch_max"] == pytest.approx(0.5)
    # KL(sampler ‖ trainer) from tokens of the sampler: exp(trainer − sampler) − 1 + sampler − trainer
    assert found["mismatch"] == pytest.approx((math.expm1(0.2) - 0.2 + math.expm1(-0.5) + 0.5) / 3, rel=1e-5)
    returns = torch.tensor([0.0, 1.0, 2.0])
    assert explained_variance(returns, returns) == 1 and explained_variance(torch.zeros(3), returns) == 0
    assert math.isnan(explained_variance(returns, torch.ones(3)))
