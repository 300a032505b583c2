"""Packing: best-fit decreasing, packs as rows, and packed batches."""

from __future__ import annotations

import time

import pytest
import torch

from fulgurite.data.rows.encoded import BatchRows, EncodedRows
from fulgurite.data.rows.packed import PackedCollator, PackedRows, best_fit
from fulgurite.data.sampling.windows import Batch, WindowSampler


def naive_rooms(lengths, capacity):
    """Rooms that textbook best-fit decreasing leaves, ascending."""
    rooms = []
    for length in sorted(lengths, reverse=True):
        fitting = [room for room in rooms if room >= length]
        if fitting:
            rooms.remove(min(fitting))
        rooms.append((min(fitting) if fitting else capacity) - length)
    return sorted(rooms)


def test_best_fit_is_best_fit_decreasing():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        capacity, rows = torch.randint(1, 50, (2,), generator=generator).tolist()
        lengths = torch.randint(1, capacity + 1, (rows,), generator=generator)
        packs = best_fit(lengths, capacity)
        assert sorted(row for pack in packs for row in pack) == list(range(rows))
        rooms = sorted(capacity - sum(int(lengths[row]) for row in pack) for pack in packs)
        assert rooms == naive_rooms(lengths.tolist(), capacity)
        assert packs == best_fit(lengths.tolist(), capacity)


def test_best_fit_by_hand():
    assert best_fit([5, 3, 7, 3, 2], 10) == [[2, 1], [0, 3, 4]]
    assert best_fit([1, 1, 1, 1, 1], 2) == [[0, 1], [2, 3], [4]]
    assert best_fit([], 4) == []


@pytest.mark.parametrize(
    ("lengths", "capacity", "words"),
    [
        ([3, 9, 4, 11], 8, r"row 1 has 9 tokens; a pack holds 8 at most; leave it out \(2 such rows\)"),
        ([3, 0], 8, "row 1 has 0 tokens"),
        ([3], 0, "capacity is 0"),
        ([[3]], 4, r"shape \(1, 1\)"),
    ],
)
def test_best_fit_refuses(lengths, capacity, words):
    with pytest.raises(ValueError, match=words):
        best_fit(lengths, capacity)


def test_best_fit_of_many_rows_is_quick():
    lengths = torch.empty(200_000).log_normal_(5.3, 0.9, generator=torch.Generator().manual_seed(0))
    lengths = lengths.long().clamp(1, 4096)
    start = time.perf_counter()
    packs = best_fit(lengths, 4096)
    assert time.perf_counter() - start < 3  # 0.1 s; quadratic ways take minutes
    assert float(lengths.sum()) / (4096 * len(packs)) > 0.999


def encoded(supervised=True, tags=True):
    lengths = [3, 1, 4, 2]
    tensors = {
        "input_ids": torch.arange(10, 20, dtype=torch.int32),
        "offsets": torch.tensor([0, 3, 4, 8, 10]),
        "full_length": torch.tensor(lengths, dtype=torch.int32),
    }
    if supervised:
        marks = [True, False, True, True, False, True, True, True, True, False]
        tensors["supervised"] = torch.tensor(marks)
    if tags:
        tensors["tag"] = torch.tensor([2, 0, -1, 1], dtype=torch.int32)
    return EncodedRows(tensors)


def test_items_restart_at_each_segment():
    rows = PackedRows(encoded(), [[2, 0], [3, 1]])
    first, second = rows[0], rows[1]
    assert first["input_ids"].tolist() == [14, 15, 16, 17, 10, 11, 12]
    assert first["labels"].tolist() == [-100, 15, 16, 17, -100, -100, 12]
    assert first["position_ids"].tolist() == [0, 1, 2, 3, 0, 1, 2]
    assert first["segment_lengths"].tolist() == [4, 3] and first["tag"].tolist() == [-1, 2]
    # A row's first token is no target even where it is supervised: nothing stands before it.
    assert second["labels"].tolist() == [-100, -100, -100]
    assert {tensor.dtype for tensor in first.values()} == {torch.int64}
    assert rows[-1]["input_ids"].tolist() == [18, 19, 13]
    assert len(rows) == 2 and rows.lengths.tolist() == [7, 3]
    with pytest.raises(IndexError):
        rows[2]


@pytest.mark.parametrize("supervised", [True, False])
def test_targets_are_what_is_labelled(supervised):
    rows = PackedRows(encoded(supervised, tags=False), [[2, 0], [3, 1]])
    counted = [int((rows[i]["labels"] != -100).sum()) for i in range(2)]
    assert rows.targets().tolist() == counted == ([4, 0] if supervised else [5, 1])
    assert "tag" not in rows[0]


def test_rows_that_cannot_be_packed_are_refused():
    tensors = encoded().tensors
    with pytest.raises(ValueError, match="labels; only rows of plain language modelling"):
        PackedRows(EncodedRows({**tensors, "labels": torch.zeros(4, dtype=torch.int64)}), [[0]])
    with pytest.raises(ValueError, match="outside of the 4 rows"):
        PackedRows(encoded(), [[0, 4]])
    with pytest.raises(ValueError, match="pack 1 holds no row"):
        PackedRows(encoded(), [[0], []])


def test_a_batch_is_one_row_with_boundaries():
    rows = PackedRows(encoded(), [[2, 0], [3, 1]])
    batch = PackedCollator(pad_token_id=7)(BatchRows(rows)[Batch((0, 1), 0, 9)])
    assert batch["input_ids"].tolist() == [[14, 15, 16, 17, 10, 11, 12, 18, 19, 13]]
    assert batch["labels"].tolist() == [[-100, 15, 16, 17, -100, -100, 12, -100, -100, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2, 0, 1, 0]]
    assert batch["cu_seq_lens"].tolist() == [0, 4, 7, 9, 10] and batch["cu_seq_lens"].dtype == torch.int32
    assert batch["max_seq_len"].shape == () and batch["max_seq_len"].dtype == torch.int64
    assert int(batch["max_seq_len"]) == 4
    assert batch["tag"].tolist() == [-1, 2, 1, 0]
    assert batch["tokens_in_window"].shape == () and int(batch["tokens_in_window"]) == 9
    assert "tokens_in_window" not in PackedCollator(7)(BatchRows(rows)[Batch((0,))])


def test_padding_is_a_segment_of_its_own():
    rows = PackedRows(encoded(), [[2, 0], [3, 1]])
    batch = PackedCollator(pad_token_id=7, pad_multiple=4).rows([rows[0], rows[1]])
    assert batch["input_ids"][0, 10:].tolist() == [7, 7] and batch["labels"][0, 10:].tolist() == [-100, -100]
    assert batch["position_ids"][0, 10:].tolist() == [0, 1]
    assert batch["cu_seq_lens"].tolist() == [0, 4, 7, 9, 10, 12] and batch["tag"].tolist() == [-1, 2, 1, 0, -1]
    assert {batch[key].dtype for key in ("input_ids", "labels", "position_ids", "tag")} == {torch.int64}
    assert PackedCollator(7, 5).rows([rows[0], rows[1]])["cu_seq_lens"].tolist() == [0, 4, 7, 9, 10]
    untagged = PackedRows(encoded(tags=False), [[2, 0]])
    assert PackedCollator(7, 4).rows([untagged[0]]).keys() == batch.keys() - {"tag"}
    with pytest.raises(ValueError, match="pad_multiple is 0"):
        PackedCollator(7, 0)


def test_packs_that_fill_up_a_batch_have_no_labels():
    rows = PackedRows(encoded(), [[2, 0], [3, 1]])
    batch = PackedCollator(7)(BatchRows(rows)[Batch((1, 0), 1, 5)])
    assert batch["input_ids"].shape == (1, 10) and bool((batch["labels"] == -100).all())
    assert int((rows[0]["labels"] != -100).sum()) == 4  # the rows themselves are untouched


def test_windows_count_the_targets_of_packs():
    generator = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 20, (37,), generator=generator)
    total = int(lengths.sum())
    tensors = {
        "input_ids": torch.arange(total, dtype=torch.int32),
        "offsets": torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]),
        "full_length": lengths.int(),
        "supervised": torch.rand(total, generator=generator) < 0.5,
    }
    rows = PackedRows(EncodedRows(tensors), best_fit(lengths, 32))
    collate, data = PackedCollator(0, 8), BatchRows(rows)
    seen, counted, promised = [], 0, 0
    for rank in range(2):
        sampler = WindowSampler(len(rows), 2, rows.targets(), rank=rank, world_size=2, accumulate=2, seed=3)
        batches = [collate(data[batch]) for batch in sampler]
        counted += sum(int((batch["labels"] != -100).sum()) for batch in batches)
        promised += sum(int(batch["tokens_in_window"]) for batch in batches[::2])
        seen += [token for batch in batches for token in batch["input_ids"][0].tolist()]
    assert promised == 2 * counted == 2 * int(rows.targets().sum())  # each rank is told of the whole window
    assert set(seen) == set(range(total))


def test_targets_are_counted_over_more_rows_than_one_chunk():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(0, 6, (1300,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    marks = torch.rand(int(offsets[-1]), generator=generator) < 0.5
    ids = torch.zeros(len(marks), dtype=torch.int32)
    rows = EncodedRows({"input_ids": ids, "offsets": offsets, "full_length": lengths.int(), "supervised": marks})
    starts, ends = offsets[:-1].tolist(), offsets[1:].tolist()
    assert rows.targets().tolist() == [int(marks[a + 1 : b].sum()) for a, b in zip(starts, ends, strict=True)]
