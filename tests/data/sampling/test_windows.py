"""Properties of the sampler: nothing lost, nothing twice, the same rows for any number of processes, exact windows."""

import pytest
import torch

from fulgurite.data.sampling.windows import Batch, WindowSampler


def rows_of(batches: list[Batch]) -> list[int]:
    return [index for batch in batches for index in batch.indices[: len(batch.indices) - batch.padding]]


@pytest.mark.parametrize("rows", [1, 7, 8, 9, 23])
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_once_and_equal_batches_on_all_ranks(rows: int, world: int, shuffle: bool) -> None:
    ranks = [list(WindowSampler(rows, 4, rank=r, world_size=world, shuffle=shuffle)) for r in range(world)]
    assert sorted(row for batches in ranks for row in rows_of(batches)) == list(range(rows))
    lengths = {len(batches) for batches in ranks}
    assert lengths == {len(WindowSampler(rows, 4, world_size=world))}
    assert all(batch.indices for batches in ranks for batch in batches)


@pytest.mark.parametrize("rows", [16, 19, 21])
def test_two_ranks_of_b_are_one_rank_of_2b(rows: int) -> None:
    targets = torch.arange(1, rows + 1)
    one = list(WindowSampler(rows, 8, targets, accumulate=2))
    two = [list(WindowSampler(rows, 4, targets, rank=r, world_size=2, accumulate=2)) for r in range(2)]
    for whole, first, second in zip(one, *two, strict=True):
        assert sorted(whole.indices) == sorted(rows_of([first, second]))
        assert whole.tokens_in_window == first.tokens_in_window == second.tokens_in_window


@pytest.mark.parametrize(("rows", "world", "accumulate", "limit"), [(23, 1, 3, None), (23, 2, 2, None), (40, 1, 4, 6)])
def test_windows_sum_their_targets_to_the_end_of_the_epoch(
    rows: int, world: int, accumulate: int, limit: int | None
) -> None:
    targets = torch.randint(0, 50, (rows,), generator=torch.Generator().manual_seed(0))
    make = {"world_size": world, "accumulate": accumulate, "limit": limit}
    ranks = [list(WindowSampler(rows, 3, targets, rank=r, **make)) for r in range(world)]
    batches = len(ranks[0])
    assert limit is None or batches == limit
    for start in range(0, batches, accumulate):
        window = [batch for rank in ranks for batch in rank[start : start + accumulate]]
        assert {b.tokens_in_window for b in window} == {int(targets[rows_of(window)].sum())}


def test_order_depends_on_seed_and_epoch_only() -> None:
    def orders(seed: int) -> list[tuple[int, ...]]:
        sampler = WindowSampler(50, 4, seed=seed)
        return [tuple(sampler.order(epoch).tolist()) for epoch in range(3)]

    assert orders(42) == orders(42)
    assert len({*orders(42), *orders(43)}) == 6  # (42, epoch 1) is not (43, epoch 0)
    before = torch.get_rng_state()
    sampler = WindowSampler(50, 4)
    list(sampler)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("done", [0, 1, 4, 5])
def test_skip_is_the_tail_of_the_uninterrupted_stream(done: int) -> None:
    whole = WindowSampler(23, 4, torch.ones(23), rank=1, world_size=1 + 1, accumulate=2)
    done = min(done, len(whole))
    whole.set_epoch(3)
    expected = list(whole)
    resumed = WindowSampler(23, 4, torch.ones(23), rank=1, world_size=2, accumulate=2)
    resumed.skip(3, done)
    assert len(resumed) == len(expected)
    iterator = iter(resumed)
    resumed.set_epoch(9)  # Lightning sets the epoch after it has made the iterator
    assert list(iterator) == expected[done:]
    resumed.set_epoch(3)
    assert list(resumed) == expected  # consumed once


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="0 rows"):
        WindowSampler(0, 4)
    with pytest.raises(ValueError, match="batch_size is 0"):
        WindowSampler(5, 0)
    with pytest.raises(ValueError, match=r"targets of shape \(4,\); \(5,\) is needed"):
        WindowSampler(5, 1, torch.ones(4))
    with pytest.raises(ValueError, match="epoch 0, batch 4 was given; an epoch here has 3 batches"):
        WindowSampler(5, 2).skip(0, 4)
