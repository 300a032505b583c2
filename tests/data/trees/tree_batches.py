"""Reads batches of trees back into paths, by the interface alone: whatever disagrees with itself is an error here."""

from __future__ import annotations

from typing import Any

import torch

Path = tuple[tuple[int, ...], int]  # ids and where the answer begins


def completions(batch: dict[str, Any]) -> list[Path]:
    """Path and beginning of each completion of a batch; checks positions, sources, targets, ends, lengths and owners."""
    found: list[Path] = []
    owner = batch["owner"].tolist()
    assert owner == sorted(owner)
    for number, (end, length) in enumerate(zip(batch["ends"].tolist(), batch["lengths"].tolist(), strict=True)):
        places = path_places(batch, end)
        ids = batch["input_ids"].flatten()[places].tolist()
        if "position_ids" in batch:
            assert batch["position_ids"].flatten()[places].tolist() == list(range(len(places)))
        mine = [i for i, each in enumerate(owner) if each == number]
        start = len(ids) - length
        assert len(mine) == length >= 1 and start >= 1
        assert batch["sources"][mine].tolist() == places[start - 1 : -1]
        assert batch["targets"][mine].tolist() == ids[start:]
        found.append((tuple(ids), start))
    return found


def path_places(batch: dict[str, Any], end: int) -> list[int]:
    """Flattened indices of the tokens on the path that ends at `end`."""
    if "attention_mask" in batch:
        row, column = divmod(end, batch["input_ids"].shape[1])
        assert batch["attention_mask"][row].tolist()[: column + 2] in ([1] * (column + 1) + [0], [1] * (column + 1))
        return list(range(end - column, end + 1))
    bounds, parents = batch["cu_seq_lens"].tolist(), batch["parents"].tolist()
    assert bounds[0] == 0 and bounds[-1] == batch["input_ids"].shape[1] and len(parents) == len(bounds) - 1
    node = int(torch.searchsorted(batch["cu_seq_lens"], end, right=True)) - 1
    assert end == bounds[node + 1] - 1
    pieces = []
    while node >= 0:
        assert parents[node] < node
        pieces.append(list(range(bounds[node], bounds[node + 1])))
        node = parents[node]
    return [place for piece in pieces[::-1] for place in piece]


def pairs(batch: dict[str, Any]) -> list[tuple[Path, Path, float, float]]:
    """Chosen and rejected path of each pair, with margin and weight."""
    paths = completions(batch)
    figures = zip(batch["pairs"].tolist(), batch["pair_margin"].tolist(), batch["pair_weight"].tolist(), strict=True)
    return [(paths[chosen], paths[rejected], margin, weight) for (chosen, rejected), margin, weight in figures]
