r"""What a rule of choice would give for n samples of a prompt, estimated without bias from N ≥ n samples that are there.

Best-of-n takes the sample with the highest score among n. Over all C(N, n) subsets, equal scores drawn by lot, its mean value is

    Σ over blocks of equal score  [C(j, n) − C(i, n)] / C(N, n) · mean value in the block

with i samples below the block and j up to its end (its samples included). The value may be anything: whether the answer is right,
another reward, the score itself, a length. With the value as its own score this is the best that any rule could do; of values 0
and 1 that is pass@n (arXiv 2107.03374).

Votes have no such formula: their mean is over all subsets where these are 200 at most, else over 200 random ones without
replacement, never over the first n samples only.

KL(best-of-n ‖ one sample) ≤ log n − (n − 1)/n, an upper bound, not an equality (arXiv 2401.01879).
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Sequence
from itertools import groupby

__all__ = ["best_of_n", "kl_bound", "over_subsets", "steps_to"]

_SUBSETS = 200


def kl_bound(n: int) -> float:
    """Upper bound of KL(best-of-n ‖ one sample) in nats.

    Args:
        n: samples of a prompt, 1 or more.
    """
    if n < 1:
        raise ValueError(f"kl_bound: n={n}; at least one sample is needed")
    return math.log(n) - (n - 1) / n


def steps_to(samples: int) -> list[int]:
    """The n of a curve: 1, 2, 4, … and the number of samples itself.

    Args:
        samples: of each prompt.
    """
    return sorted({*(2**i for i in range(max(1, samples).bit_length())), samples} - {0})


def best_of_n(scores: Sequence[float | None], values: Sequence[float | None], n: int) -> float | None:
    """The mean value of the sample that has the highest score among n, over all subsets of n samples, ties by lot.

    Args:
        scores: of N samples of a prompt; None ranks below every score.
        values: of the same samples; a sample whose value is None can be chosen, but such choices are left out of the mean.
        n: 1 to N.

    Returns:
        The mean; None where no sample that can be chosen has a value.

    Raises:
        ValueError: n outside 1 to N; as many values as scores are needed; a score that is not a number.
    """
    total = len(scores)
    if len(values) != total or not 1 <= n <= total:
        raise ValueError(
            f"best_of_n: n={n} of {total} scores and {len(values)} values; needed is 1 ≤ n ≤ N and a value for each score"
        )
    ranks = [-math.inf if score is None else score for score in scores]
    if any(math.isnan(rank) for rank in ranks):
        raise ValueError("best_of_n: a score is NaN, which has no order; give numbers, or None for what has no score")
    order = sorted(range(total), key=ranks.__getitem__)
    subsets = math.comb(total, n)
    mean, weight, below = 0.0, 0.0, 0
    for _, block in groupby(order, key=ranks.__getitem__):
        places = list(block)
        until = below + len(places)
        share = (math.comb(until, n) - math.comb(below, n)) / subsets
        below = until
        known = [value for place in places if (value := values[place]) is not None]
        if share and known:
            share *= len(known) / len(places)
            mean += share * math.fsum(known) / len(known)
            weight += share
    return mean / weight if weight else None


def over_subsets(total: int, n: int, value: Callable[[Sequence[int]], float | None], seed: str = "") -> float | None:
    """The mean of a value over the subsets of n out of N samples: all of them, or 200 random ones where there are more.

    Args:
        total: N.
        n: 1 to N.
        value: of the places of a subset, in order; None leaves the subset out.
        seed: of the random subsets, such as a prompt's key.
    """
    if not 1 <= n <= total:
        raise ValueError(f"over_subsets: n={n} of {total} samples; needed is 1 ≤ n ≤ N")
    if math.comb(total, n) <= _SUBSETS:
        subsets: list[Sequence[int]] = list(itertools.combinations(range(total), n))
    else:
        draws = random.Random(f"subsets|{seed}|{total}|{n}")
        subsets = [sorted(draws.sample(range(total), n)) for _ in range(_SUBSETS)]
    found = [given for subset in subsets if (given := value(subset)) is not None]
    return math.fsum(found) / len(found) if found else None
