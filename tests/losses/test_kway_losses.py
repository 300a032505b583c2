"""Losses of K scored completions: against their formulas, the losses of pairs, and each other."""

from __future__ import annotations

import pytest
import torch

from fulgurite.losses import Completions, PreferenceLoss
from fulgurite.losses.groupwise import group_table


def draw(count, seed=0):
    g = torch.Generator().manual_seed(seed)
    log_probs, reference = (5 * torch.randn(count, generator=g, dtype=torch.float64) for _ in range(2))
    return Completions(log_probs, torch.randint(1, 20, (count,), generator=g), reference), torch.rand(
        count, generator=g
    )


def by_formula(name, completions, rows, scores, temperature, beta=0.1):
    rewards = beta * completions.log_ratios[rows]
    share = (scores[rows].double() / temperature).softmax(0)
    if name == "infonca":
        return -(share * rewards.log_softmax(0)).sum()
    return -(share * rewards.sigmoid().log()).sum() - (-rewards).sigmoid().log().mean()


@pytest.mark.parametrize("name", ["nca_kway", "infonca"])
@pytest.mark.parametrize("temperature", [0.3, 5.0])
def test_ragged_interleaved_groups_equal_the_formula(name, temperature):
    completions, scores = draw(10)
    group = torch.tensor([2, 0, 1, 2, -1, 0, 2, 1, 2, -1])
    parts = PreferenceLoss(name, temperature=temperature)(completions, group=group, scores=scores)
    expected = [by_formula(name, completions, (group == i).nonzero()[:, 0], scores, temperature) for i in range(3)]
    torch.testing.assert_close(parts.losses, torch.stack(expected), rtol=1e-6, atol=1e-9)
    assert parts.units.item() == 3


@pytest.mark.parametrize(("groups", "pairs"), [("infonca", "dpo"), ("nca_kway", "nca")])
def test_two_completions_with_one_hot_scores_are_the_pair(groups, pairs):
    completions, _ = draw(6)
    group, scores = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([1.0, 0, 0, 1, 1, 0])
    many = PreferenceLoss(groups, temperature=1e-4)(completions, group=group, scores=scores)
    two = PreferenceLoss(pairs)(completions, pairs=torch.tensor([[0, 1], [3, 2], [4, 5]]))
    torch.testing.assert_close(many.losses, two.losses)


def test_the_default_temperature_takes_the_best_and_splits_ties():
    completions, _ = draw(3)
    loss, group = PreferenceLoss("infonca"), torch.zeros(3, dtype=torch.int64)
    log_share = (0.1 * completions.log_ratios).log_softmax(0)
    best = loss(completions, group=group, scores=torch.tensor([4.75, 5.0, 4.5])).losses
    torch.testing.assert_close(best, -log_share[1:2])
    tied = loss(completions, group=group, scores=torch.tensor([5, 5, 4])).losses
    torch.testing.assert_close(tied, -log_share[:2].mean()[None])


def test_scores_far_from_zero_keep_their_differences():
    """Dividing float32 scores by 1e-4 before subtracting would lose the difference of 2e-4."""
    completions, _ = draw(2)
    group, scores = torch.zeros(2, dtype=torch.int64), torch.tensor([9.0002, 9.0])
    share = ((scores[0].double() - scores[1].double()) / 1e-4).sigmoid()
    log_share = (0.1 * completions.log_ratios).log_softmax(0)
    found = PreferenceLoss("infonca")(completions, group=group, scores=scores).losses
    torch.testing.assert_close(found[0], -(share * log_share[0] + (1 - share) * log_share[1]), rtol=1e-6, atol=0)


def test_group_table():
    assert group_table(torch.tensor([1, 0, -1, 1, 0, 1])).tolist() == [[1, 4, -1], [0, 3, 5]]


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ([0, 0, 1], "group 1 has 1 completions"),
        ([0, 0, 2, 2], "group 1 has 0 completions"),
        ([0.0, 0.0], "float32"),
        ([[0, 0]], r"shape \(1, 2\)"),
    ],
)
def test_groups_without_a_comparison_are_refused(group, message):
    with pytest.raises(ValueError, match=message):
        group_table(torch.tensor(group))
