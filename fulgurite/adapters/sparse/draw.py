"""Draws without replacement that are the same on every machine, rank and version: positions of an APET adapter.

Only the raw 64-bit stream of NumPy's PCG64 is used, which NumPy promises never to change (NEP 19). Its ``Generator`` methods and
torch's ``randperm`` make no such promise, and ``randperm`` would permute all scalars of the network for the sake of a few.
"""

from __future__ import annotations

import numpy as np

__all__ = ["distinct", "equal_shares", "permutation"]


def distinct(total: int, count: int, seed: int, stream: int = 0) -> np.ndarray:
    """``count`` different numbers below ``total``, every set equally likely; sorted, int64.

    Memory and time grow with ``count``, not with ``total``. Above half of ``total`` the numbers to leave out are drawn instead.
    Up to half of ``total`` the draws of one seed are nested: those of a smaller count are among those of a larger one.

    Args:
        total: size of the population.
        count: numbers to draw, from 0 to ``total``.
        seed: any integer >= 0.
        stream: draws of one seed under different streams are independent.
    """
    if count > total // 2:
        keep = np.ones(total, dtype=bool)
        keep[distinct(total, total - count, seed, stream)] = False
        return np.flatnonzero(keep)
    bits = max(1, (total - 1).bit_length())
    source = _raw(seed, stream)
    found = np.empty(0, dtype=np.int64)
    while found.size < count:
        wanted = int((count - found.size) * 1.1 * 2**bits / total) + 16
        values = source.random_raw(wanted) >> np.uint64(64 - bits)
        fresh = np.concatenate([found, values[values < total].astype(np.int64)])
        _, first = np.unique(fresh, return_index=True)
        found = fresh[np.sort(first)]
    return np.sort(found[:count])


def permutation(count: int, seed: int, stream: int = 0) -> list[int]:
    """The numbers below ``count`` in random order."""
    return [int(i) for i in np.argsort(_raw(seed, stream).random_raw(count), kind="stable")]


def equal_shares(capacities: list[int], budget: int, seed: int) -> list[int]:
    """Split ``budget`` evenly over places that hold at most ``capacities``; what a full place cannot take goes to the others.

    The remainder, less than one for each place, goes to places drawn at random. The shares sum to ``budget`` exactly.

    Args:
        capacities: the most that each place holds.
        budget: at most the sum of ``capacities``.
        seed: of the draw.
    """
    shares = [0] * len(capacities)
    left = budget
    while left:
        room = [i for i, capacity in enumerate(capacities) if shares[i] < capacity]
        each = left // len(room)
        if not each:
            for i in permutation(len(room), seed)[:left]:
                shares[room[i]] += 1
            return shares
        for i in room:
            more = min(each, capacities[i] - shares[i])
            shares[i] += more
            left -= more
    return shares


def _raw(seed: int, stream: int) -> np.random.PCG64:
    return np.random.PCG64(np.random.SeedSequence(entropy=seed, spawn_key=(stream,)))
