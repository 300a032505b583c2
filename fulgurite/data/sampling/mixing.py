"""Mixing: how many rows of each source make up an epoch, and which, so that each source has the share that its weight asks for.

With n_i rows of source i and weights w_i that sum to 1, an epoch has N rows, and source i gives N·w_i of them, rounded by
largest remainders. With `until_first_ends` N = min n_i / w_i, so that no row comes twice. With `repeat` N = Σ n_i: a source
that has fewer rows than its share gives each of them equally often, as far as that divides, and a random few once more.

A row may count for several units (a tree for its pairs). Shares are then shares of units, met as nearly as whole rows can.

The rows are chosen once, from the seed. So the number of steps of an epoch is known before training, every process and a
resumed run see the same rows, and epochs differ only in the order of the rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

__all__ = ["largest_remainder", "mix", "tag_numbers"]


def largest_remainder(total: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers that sum to `total`, each as near to its share as can be; ties go to the first.

    Args:
        total: what is shared out.
        weights: shares, which need not sum to 1.
    """
    whole = sum(weights)
    exact = [total * weight / whole for weight in weights]
    counts = [int(share) for share in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: total - sum(counts)]:
        counts[index] += 1
    return counts


def mix(
    tag: Tensor,
    names: Sequence[str],
    weights: Mapping[str, float],
    mode: Literal["until_first_ends", "repeat"] = "until_first_ends",
    seed: int = 42,
    units: Tensor | None = None,
) -> Tensor:
    """The rows of an epoch, (N,) int64, grouped by source.

    Args:
        tag: source of each row, (rows,), an index into `names`; -1 for rows of no source.
        names: the sources.
        weights: share of each source; 0 leaves it out.
        mode: where the epoch ends, see above.
        seed: decides which rows.
        units: how many units each row counts for, (rows,) int64; None: one each.
    """
    if mode not in ("until_first_ends", "repeat"):
        raise ValueError(f"mix: mixing is {mode!r}; allowed are 'until_first_ends' and 'repeat'")
    units = torch.ones(len(tag), dtype=torch.int64) if units is None else units
    counts = {name: int(units[tag == index].sum()) for index, name in enumerate(names)}
    present = {name: count for name, count in counts.items() if count}
    shown = ", ".join(f"{name} {count}" for name, count in present.items()) or "none"
    if int((tag < 0).sum()):
        raise ValueError(f"mix: {int((tag < 0).sum())} rows belong to no source; weights need one for each row")
    if set(weights) != set(present):
        unknown, left = sorted(set(weights) - set(present)), sorted(set(present) - set(weights))
        problem = [f"no row belongs to {', '.join(unknown)}"] * bool(unknown) + [f"{', '.join(left)} has none"] * bool(
            left
        )
        raise ValueError(
            f"mix: weights are given for {', '.join(weights) or 'nothing'}, but {' and '.join(problem)}; the rows are: "
            f"{shown}; give each of them a weight, 0 to leave it out"
        )
    if min(weights.values()) < 0 or sum(weights.values()) <= 0 or not all(map(_finite, weights.values())):
        raise ValueError(f"mix: weights are {dict(weights)}; none may be negative, and one at least must be above 0")
    used = [name for name in present if weights[name] > 0]
    whole = sum(weights[name] for name in used)
    shares = [weights[name] / whole for name in used]
    if mode == "repeat":
        total = sum(present[name] for name in used)
    else:
        # A share as 0.1 is not exact: without the slack 10 rows at a share of 0.1 would make 99 and not 100.
        total = min(int(present[name] / share + 1e-6) for name, share in zip(used, shares, strict=True))
    chosen = []
    for name, wanted in zip(used, largest_remainder(total, shares), strict=True):
        rows = (tag == list(names).index(name)).nonzero().squeeze(1)
        wanted = wanted if mode == "repeat" else min(wanted, present[name])
        digest = hashlib.sha256(f"{seed}:mix:{name}".encode()).digest()
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "little")))
        chosen.append(rows.repeat(wanted // present[name]))
        rest, reached = (
            wanted % present[name],
            torch.cat([torch.zeros(1, dtype=torch.int64), units[rows[order]].cumsum(0)]),
        )
        chosen.append(rows[order[: int((reached - rest).abs().argmin())]])
    return torch.cat(chosen)


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def tag_numbers(known: Sequence[str], names: Sequence[str]) -> tuple[list[str], Tensor]:
    """The names of all tags so far, and the number there of each tag of some rows, (names + 1,) int32; the last is for -1, no tag.

    Args:
        known: names that have numbers already, which they keep.
        names: of the rows' tags, in the order of their own numbers.
    """
    every = [*known, *sorted(set(names) - set(known))]
    return every, torch.tensor([*(every.index(name) for name in names), -1], dtype=torch.int32)
