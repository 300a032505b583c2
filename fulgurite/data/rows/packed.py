"""Packing: rows of different lengths share one sequence, each a segment that sees only itself.

Best-fit decreasing: rows go from the longest to the shortest, each into the fullest pack that still has room for it; for
many rows that takes at most 11/9 of the least possible number of packs (Johnson et al. 1974). Packs with equal room are
interchangeable, so they are kept in one list per room, and rows of equal length are placed together: O(n log n), about
half a second for a million rows. No row is ever cut.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from fulgurite.data.rows.encoded import IGNORE_INDEX, EncodedRows
from fulgurite.data.sampling.windows import Batch

__all__ = ["PackedCollator", "PackedRows", "best_fit"]

Row = dict[str, Tensor]


def best_fit(lengths: Tensor | Sequence[int], capacity: int) -> list[list[int]]:
    """Distributes rows over packs, by best-fit decreasing.

    The result depends on nothing but the arguments: rows of equal length keep their order, and of packs with equal room
    those that came to it last are filled first.

    Args:
        lengths: tokens of each row, (rows,).
        capacity: tokens of a pack at most.

    Returns:
        For each pack the indices of its rows, the longest first.
    """
    sizes = torch.as_tensor(lengths, dtype=torch.int64)
    if sizes.dim() != 1:
        raise ValueError(f"best_fit: lengths of shape {tuple(sizes.shape)}; (rows,) is needed")
    if capacity < 1:
        raise ValueError(f"best_fit: capacity is {capacity}; a pack must hold at least 1 token")
    if not len(sizes):
        return []
    for wrong, rule in ((sizes > capacity, f"a pack holds {capacity} at most"), (sizes < 1, "at least 1 is needed")):
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(
                f"best_fit: row {row} has {int(sizes[row])} tokens; {rule}; leave it out ({int(wrong.sum())} such rows), "
                "or choose another capacity"
            )
    ordered, order = torch.sort(sizes, descending=True, stable=True)
    values, counts = torch.unique_consecutive(ordered, return_counts=True)
    rows = order.tolist()
    packs: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room, ascending
    first = 0
    for length, count in zip(values.tolist(), counts.tolist(), strict=True):
        end = first + count
        while first < end:
            place = bisect_left(rooms, length)
            room = rooms[place] if place < len(rooms) else capacity
            # The fullest pack with room stays the fullest until nothing of this length fits any more.
            each = min(room // length, end - first)
            number = (end - first) // each
            if place < len(rooms):
                waiting = by_room[room]
                chosen = waiting[-number:]
                del waiting[-number:]
                if not waiting:
                    del by_room[room], rooms[place]
            else:
                chosen = list(range(len(packs), len(packs) + number))
                packs.extend([] for _ in chosen)
            for pack in chosen:
                packs[pack].extend(rows[first : first + each])
                first += each
            left = room - each * length
            if left and left not in by_room:
                insort(rooms, left)
                by_room[left] = []
            if left:
                by_room[left].extend(chosen)
    return packs


class PackedRows(Dataset[Row]):
    """Packs of rows, for language modelling; stands where `EncodedRows` stands without packing.

    An item holds `input_ids` (t,), `labels` (t,), -100 where unsupervised and at each segment's first token, which
    nothing precedes, `position_ids` (t,), from 0 in each segment, `segment_lengths` (s,), all int64, and `tag` (s,) where
    the rows have tags.

    Args:
        encoded: the rows; without a tensor `supervised` every token is.
        packs: indices of rows, one list per pack, as `best_fit` gives them.
    """

    def __init__(self, encoded: EncodedRows, packs: Sequence[Sequence[int]]) -> None:
        other = sorted({"labels", "token_type_ids", "target_ids"} & set(encoded.tensors))
        if other:
            raise ValueError(
                f"PackedRows: the rows have {', '.join(other)}; only rows of plain language modelling can be packed; turn "
                "packing off"
            )
        empty = next((i for i, pack in enumerate(packs) if not len(pack)), None)
        if empty is not None:
            raise ValueError(f"PackedRows: pack {empty} holds no row; drop it")
        self.encoded = encoded
        self._sizes = torch.tensor([len(pack) for pack in packs], dtype=torch.int64)
        # One flat tensor: lists of Python numbers would be copied into every worker process, page by page.
        self._rows = torch.tensor([row for pack in packs for row in pack], dtype=torch.int64)
        self._ends = self._sizes.cumsum(0)
        if self._rows.numel() and not 0 <= int(self._rows.min()) <= int(self._rows.max()) < len(encoded):
            raise ValueError(
                f"PackedRows: a pack names a row outside of the {len(encoded)} rows; pack these rows again"
            )

    def __len__(self) -> int:
        return len(self._sizes)

    def __getitem__(self, index: int) -> Row:
        if not -len(self) <= index < len(self):
            raise IndexError(f"PackedRows: pack {index} of {len(self)}")
        end = int(self._ends[index])
        rows = self._rows[end - int(self._sizes[index]) : end]
        tensors = self.encoded.tensors
        starts, ends = self.encoded.spans(rows)
        spans = list(zip(starts.tolist(), ends.tolist(), strict=True))
        lengths = ends - starts
        ids = torch.cat([tensors["input_ids"][start:stop] for start, stop in spans]).long()
        labels = ids.clone()
        if "supervised" in tensors:
            labels[~torch.cat([tensors["supervised"][start:stop] for start, stop in spans]).bool()] = IGNORE_INDEX
        firsts = lengths.cumsum(0) - lengths
        labels[firsts[lengths > 0]] = IGNORE_INDEX
        positions = torch.arange(len(ids)) - firsts.repeat_interleave(lengths)
        item = {"input_ids": ids, "labels": labels, "position_ids": positions, "segment_lengths": lengths}
        if "tag" in tensors:
            item["tag"] = tensors["tag"][rows].long()
        return item

    @property
    def lengths(self) -> Tensor:
        """Tokens of each pack, (packs,) int64."""
        return self._sum(self.encoded.lengths)

    def targets(self) -> Tensor:
        """Supervised targets of each pack, (packs,) int64."""
        return self._sum(self.encoded.targets())

    def _sum(self, per_row: Tensor) -> Tensor:
        pack = torch.arange(len(self)).repeat_interleave(self._sizes)
        return torch.zeros(len(self), dtype=torch.int64).index_add_(0, pack, per_row[self._rows].long())


class PackedCollator:
    """Packs of a batch, one after the other in a single row: nothing is padded but its end, to `pad_multiple`.

    The batch holds `input_ids`, `labels` and `position_ids` (1, T) int64, `cu_seq_lens` (S + 1,) int32, the segments'
    boundaries from 0 to T, `max_seq_len` () int64, tokens of the longest segment, and `tag` (S,) int64 where given.

    Args:
        pad_token_id: stands in padded positions, which are a segment of their own without labels (tag -1).
        pad_multiple: T is rounded up to a multiple of it; 128 suits flex attention, 8 tensor cores.
    """

    def __init__(self, pad_token_id: int, pad_multiple: int = 1) -> None:
        if pad_multiple < 1:
            raise ValueError(f"PackedCollator: pad_multiple is {pad_multiple}; it must be at least 1")
        self.pad_token_id = pad_token_id
        self.pad_multiple = pad_multiple

    def rows(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The batch of these packs."""
        joined = {key: torch.cat([row[key] for row in rows]) for key in rows[0]}
        lengths = joined.pop("segment_lengths")
        padding = -int(lengths.sum()) % self.pad_multiple
        if padding:
            lengths = torch.cat([lengths, torch.tensor([padding])])
            filling = {"input_ids": self.pad_token_id, "labels": IGNORE_INDEX, "tag": -1}
            for key, tensor in joined.items():
                if key == "position_ids":
                    end = torch.arange(padding)
                else:
                    end = torch.full((1 if key == "tag" else padding,), filling[key])
                joined[key] = torch.cat([tensor, end])
        batch = {key: joined[key][None] for key in ("input_ids", "labels", "position_ids")}
        batch["cu_seq_lens"] = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)]).int()
        batch["max_seq_len"] = lengths.max()
        if "tag" in joined:
            batch["tag"] = joined["tag"]
        return batch

    def __call__(self, item: tuple[Sequence[Row], Batch]) -> dict[str, Tensor]:
        """The tensors of one `Batch`, with `tokens_in_window` where it has one and no label in packs that fill it up."""
        rows, batch = item
        real = len(rows) - batch.padding
        filled = [{**row, "labels": torch.full_like(row["labels"], IGNORE_INDEX)} for row in rows[real:]]
        tensors = self.rows([*rows[:real], *filled])
        if batch.tokens_in_window is not None:
            tensors["tokens_in_window"] = torch.tensor(batch.tokens_in_window, dtype=torch.int64)
        return tensors
