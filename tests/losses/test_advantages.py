"""Advantages: the specification's numbers, ragged answers and groups, what is undefined."""

from __future__ import annotations

import pytest
import torch

from fulgurite.losses.advantages import gae, group_relative, leave_one_out, moving_baseline, whitened


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


REWARDS, ONE_GROUP = numbers(1, 0, 0.5, 0.25), torch.zeros(4, dtype=torch.int64)


def same(found, *wanted, tolerance=1e-8):
    torch.testing.assert_close(found, numbers(*wanted), rtol=0, atol=tolerance)


def test_group_advantages_of_the_specification():
    same(leave_one_out(REWARDS, ONE_GROUP), 0.75, -0.583333333, 0.083333333, -0.25)
    same(group_relative(REWARDS, ONE_GROUP), 1.317156599, -1.024455133, 0.146350733, -0.439052200)
    over_n = group_relative(REWARDS, ONE_GROUP, unbiased=False)
    same(over_n, 1.520866341, -1.182896043, 0.168985149, -0.506955447)
    same(group_relative(REWARDS, ONE_GROUP, "none"), 0.5625, -0.4375, 0.0625, -0.1875)


@pytest.mark.parametrize(
    ("gamma", "lam", "wanted"),
    [(1.0, 0.95, (0.527475, 0.6605, 0.59, 0.2)), (0.99, 0.9, (0.432424946, 0.6020482, 0.5702, 0.2))],
)
def test_gae_of_the_specification(gamma, lam, wanted):
    values = numbers(0.5, 0.4, 0.6, 0.8)
    found = gae(numbers(0, -0.1, 0.2, 1), values, torch.tensor([4]), gamma, lam)
    same(found.advantages, *wanted)
    torch.testing.assert_close(found.returns, found.advantages + values)
    if gamma == 1:
        same(found.returns, 1.027475, 1.0605, 1.19, 1.0)
        same(whitened(found.advantages), 0.186948975, 0.940980049, 0.541362002, -1.669291025)


def test_answers_of_unequal_length_have_the_advantages_that_each_has_alone():
    g = torch.Generator().manual_seed(0)
    lengths = torch.tensor([3, 1, 5])
    rewards, values = (torch.randn(9, generator=g, dtype=torch.float64) for _ in range(2))
    together = gae(rewards, values, lengths, 0.97, 0.8).advantages
    alone = [
        gae(r, v, torch.tensor([len(r)]), 0.97, 0.8).advantages
        for r, v in zip(rewards.split([3, 1, 5]), values.split([3, 1, 5]), strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert gae(rewards[:0], values[:0], lengths[:0]).returns.shape == (0,)
    with pytest.raises(ValueError, match="one of each for every token"):
        gae(rewards, values, torch.tensor([4]))


def test_groups_do_not_see_each_other_and_a_lone_answer_has_no_advantage():
    rewards, group = torch.cat([REWARDS, REWARDS * 7 + 2, numbers(5)]), torch.tensor([0] * 4 + [1] * 4 + [2])
    for function in (leave_one_out, group_relative):
        found = function(rewards, group)
        torch.testing.assert_close(found[:4], function(REWARDS, ONE_GROUP))
        assert float(found[8]) == 0
    constant = group_relative(numbers(2, 2, 2), torch.zeros(3, dtype=torch.int64))
    same(constant, 0, 0, 0)
    batch = group_relative(rewards, group, "batch")
    torch.testing.assert_close(batch, group_relative(rewards, group, "none") / (rewards.std() + 1e-4))
    with pytest.raises(ValueError, match="scale='answer'"):
        group_relative(REWARDS, ONE_GROUP, "answer")  # type: ignore[arg-type]


def test_the_moving_baseline_holds_earlier_steps_only():
    first, mean = moving_baseline(None, numbers(1, 3))
    same(first, -1, 1)
    assert mean == 2
    second, mean = moving_baseline(mean, numbers(4, 6), decay=0.5)
    same(second, 2, 4)
    assert mean == 3.5
