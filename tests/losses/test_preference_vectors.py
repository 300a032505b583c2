"""Values worked out by hand or published, one line per row of the table of test vectors."""

from __future__ import annotations

import math

import pytest
import torch

from fulgurite.losses import Completions, PreferenceLoss, RewardLoss

PAIR = torch.tensor([[0, 1]])


def completions(log_probs, lengths=None, reference=None):
    log_probs = torch.tensor(log_probs, dtype=torch.float64)
    lengths = torch.ones(len(log_probs), dtype=torch.int64) if lengths is None else torch.tensor(lengths)
    return Completions(log_probs, lengths, None if reference is None else torch.tensor(reference, dtype=torch.float64))


def of_rewards(name, rewards, **options):
    """The loss of a pair whose implicit rewards are given."""
    loss = PreferenceLoss(name, **options)
    given = completions([reward / loss.beta for reward in rewards], reference=[0.0] * len(rewards))
    return loss(given, pairs=PAIR).loss_sum.item()


@pytest.mark.parametrize(("rewards", "value"), [((0, 0), 2.079442), ((1, -1), 0.753451), ((2, 1), 1.753451)])
def test_ultrainteract(rewards, value):
    parts = RewardLoss()(torch.tensor(rewards, dtype=torch.float64), PAIR, direct=torch.tensor([True]))
    assert parts.loss_sum.item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("rewards", "value"), [((0, 0), 1.386294), ((0.5, -0.3), 1.238293), ((1, -1), 1.126523)])
def test_nca(rewards, value):
    assert of_rewards("nca", rewards) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("difference", "value"), [(0.0, 0.693147), (0.8, 0.371101)])
def test_dpo(difference, value):
    assert of_rewards("dpo", (difference - 0.3, -0.3)) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("ratio", "desirable"), [(5.0, True), (-3.0, False)])
def test_kto(ratio, desirable):
    loss = PreferenceLoss("kto", beta=0.1)
    given = completions([ratio - 7], reference=[-7.0])
    parts = loss(given, desirable=torch.tensor([desirable]), kl=torch.tensor(1.0))
    assert parts.loss_sum.item() == pytest.approx(0.401312, abs=1e-6)


def test_ipo():
    # Log-ratios per token 0.08 and 0.03: a difference of 0.05 only after division by the lengths.
    given = completions([-10 + 0.8, -5 + 0.15], lengths=[10, 5], reference=[-10.0, -5.0])
    assert PreferenceLoss("ipo", beta=0.1)(given, pairs=PAIR).loss_sum.item() == pytest.approx(24.5025, abs=1e-9)
    sums = PreferenceLoss("ipo", beta=0.1, length_normalise=False)(given, pairs=PAIR).loss_sum.item()
    assert sums == pytest.approx((0.65 - 5) ** 2, abs=1e-9)


def test_simpo():
    given = completions([-0.8 * 10, -1.1 * 20], lengths=[10, 20])
    value = PreferenceLoss("simpo", beta=2.0, gamma_ratio=0.5)(given, pairs=PAIR).loss_sum.item()
    assert value == pytest.approx(0.913015, abs=1e-6)


def test_ultrarm_margin():
    rewards = torch.tensor([1.5, 0.5], dtype=torch.float64)
    assert RewardLoss()(rewards, PAIR, margin=torch.tensor([0.5])).loss_sum.item() == pytest.approx(0.474077, abs=1e-6)


def test_contrastive_cpo():
    given = completions([-20.0, -30.0], lengths=[8, 4])
    term = PreferenceLoss("cpo", cpo_alpha=0.0)(given, pairs=PAIR).loss_sum.item()
    assert term == pytest.approx(0.313262, abs=1e-6)
    whole = PreferenceLoss("cpo", cpo_alpha=0.5)(given, pairs=PAIR).loss_sum.item()
    assert whole == pytest.approx(term + 0.5 * 20 / 8, abs=1e-12)


@pytest.mark.parametrize("delta", [-1.3, 0.0, 0.7])
def test_remaining_pair_losses_by_their_formulas(delta):
    chosen, rejected, noise = 0.2, 0.2 - delta, 0.15
    right, wrong = math.log1p(math.exp(-delta)), math.log1p(math.exp(delta))
    expected = {
        "cdpo": (1 - noise) * right + noise * wrong,
        "robust": ((1 - noise) * right - noise * wrong) / (1 - 2 * noise),
    }
    for name, value in expected.items():
        assert of_rewards(name, (chosen, rejected), label_smoothing=noise) == pytest.approx(value, abs=1e-12)
    assert of_rewards("hinge", (chosen, rejected)) == pytest.approx(max(0.0, 1 - delta), abs=1e-12)
    biased = math.log1p(math.exp(-chosen)) + math.log1p(math.exp(rejected))
    assert of_rewards("biased_nca", (chosen, rejected)) == pytest.approx(biased, abs=1e-12)


def test_sft_divides_by_the_completion_or_by_the_batch():
    given = completions([-6.0, -1.0, -10.0], lengths=[2, 1, 10])
    pairs = torch.tensor([[0, 1], [2, 1]])
    each = PreferenceLoss("sft")(given, pairs=pairs)
    assert each.losses.tolist() == pytest.approx([3.0, 1.0])
    batch = PreferenceLoss("sft", nll_over="batch")(given, pairs=pairs)
    assert (batch.loss_sum / batch.units).item() == pytest.approx(16 / 12)


@pytest.mark.parametrize("nll_over", ["completion", "batch"])
@pytest.mark.parametrize("name", ["sft", "cpo", "simpo"])
def test_an_empty_completion_divides_by_no_zero(name, nll_over):
    parts = PreferenceLoss(name, nll_over=nll_over)(completions([0.0, 0.0], lengths=[0, 0]), pairs=PAIR)
    assert parts.loss_sum.isfinite()


def test_nca_stationary_reward_is_ln_2_and_found_by_descent():
    """Free log-probabilities: the chosen reward settles at ln 2, the rejected one goes on falling."""
    log_probs = torch.tensor([-30.0, -25.0], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([-30.0, -25.0], dtype=torch.float64)
    loss, optimizer = PreferenceLoss("nca", beta=0.1), torch.optim.SGD([log_probs], lr=100.0)
    for _ in range(400):
        optimizer.zero_grad()
        given = Completions(log_probs, torch.tensor([9, 7]), reference)
        loss(given, pairs=PAIR).loss_sum.backward()
        optimizer.step()
    rewards = loss.rewards(given).tolist()
    assert rewards[0] == pytest.approx(math.log(2), abs=1e-9)
    assert rewards[1] < -4
