"""The balanced sampler: n rows of every group in each batch, stages, ranks, accumulation, and positions in any stage."""

from __future__ import annotations

import pytest
import torch

from fulgurite.data.sampling.balanced import BalancedSampler

SIZES = (17, 5, 11)
TAG = torch.repeat_interleave(torch.arange(3), torch.tensor(SIZES))[
    torch.randperm(33, generator=torch.Generator().manual_seed(3))
]
TARGETS = torch.arange(33) + 1
NAMES = ("text", "code", "maths")


def sampler(**changes):
    options = {"per_group": [4, 2], "stage_steps": [3, 5], "targets": TARGETS, "seed": 7}
    return BalancedSampler(TAG, NAMES, **{**options, **changes})


def test_every_batch_holds_as_many_rows_of_each_group_and_stages_have_their_sizes():
    batches = list(sampler())
    assert len(batches) == len(sampler()) == 8
    for number, batch in enumerate(batches):
        counts = torch.bincount(TAG[list(batch.indices)], minlength=3).tolist()
        assert counts == ([4, 4, 4] if number < 3 else [2, 2, 2])


def test_each_group_is_gone_through_wholly_before_a_row_comes_again():
    taken = [index for batch in sampler() for index in batch.indices]
    for group, size in enumerate(SIZES):
        mine = [index for index in taken if TAG[index] == group]
        for turn in range(len(mine) // size):
            assert sorted(mine[turn * size : (turn + 1) * size]) == (group == TAG).nonzero().squeeze(1).tolist()
    code = [index for index in taken if TAG[index] == 1]
    assert code[:5] != code[5:10], "the second turn has another order"


@pytest.mark.parametrize("accumulate", [1, 2])
def test_two_ranks_see_the_rows_of_one_with_twice_the_size(accumulate):
    one = sampler(per_group=[4, 2], accumulate=accumulate)
    two = [sampler(per_group=[2, 1], rank=r, world_size=2, accumulate=accumulate) for r in (0, 1)]
    for whole, left, right in zip(one, *two, strict=True):
        assert sorted(whole.indices) == sorted(left.indices + right.indices)
        assert whole.tokens_in_window == left.tokens_in_window == right.tokens_in_window
        assert torch.bincount(TAG[list(left.indices)], minlength=3).unique().numel() == 1


def test_the_tokens_of_a_window_are_those_of_its_batches():
    batches = list(sampler(accumulate=2))
    for first, second in zip(batches[::2], batches[1::2], strict=True):
        tokens = int(TARGETS[list(first.indices + second.indices)].sum())
        assert first.tokens_in_window == second.tokens_in_window == tokens


@pytest.mark.parametrize("position", range(8))
def test_a_run_goes_on_with_the_rows_it_had_not_seen(position):
    whole, resumed = list(sampler()), sampler()
    resumed.skip(0, position)
    assert list(resumed) == whole[position:]


def test_the_second_epoch_goes_on_in_the_streams():
    later = sampler()
    later.skip(1, 0)
    assert next(iter(later)) != next(iter(sampler()))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="'code' has no row"):
        BalancedSampler(torch.tensor([0, 0, 2]), NAMES, [1], [1], TARGETS[:3])
    with pytest.raises(ValueError, match=r"too few are there of .*code 5"):
        sampler(repeat=False)
    assert len(sampler(repeat=False, stage_steps=[1, 0 + 1], per_group=[3, 2])) == 2
    with pytest.raises(ValueError, match="one number of at least 1"):
        sampler(stage_steps=[3])
