"""Simulated series of models with a known law, for the tests of this room and of the command."""

from __future__ import annotations

import numpy as np

from benchmarks.studies.pass_rates.passuntil import planted
from fulgurite.evaluation.pass_until.counts import Count, Counts, table_of

SIZES = (36e6, 109e6, 241e6, 498e6, 892e6, 1.54e9)
LOG_C, ALPHA = 8.6, 0.35


def rows_of(
    sizes: tuple[float, ...] = SIZES,
    items: int = 60,
    seed: int = 0,
    bend: float = 0.0,
    r: int = 5,
    cap: int = 20_000,
    spread: float = 0.0,
    alpha: float = ALPHA,
    log_c: float = LOG_C,
) -> list[Count]:
    """Counts of draws with log(−log p) = log c − α log N + bend (log N − mean)², the level spread over instances."""
    table, _ = planted(np.random.default_rng(seed), np.array(sizes), items, log_c, alpha, r, cap, bend, (spread, 0.0))
    return [
        Count(f"m{i}", size, str(s), int(table.n[i, s]), int(table.c[i, s]), r, cap if r else 0)
        for i, size in enumerate(sizes)
        for s in range(items)
    ]


def counts_of(**options: float) -> Counts:
    """The table of such rows."""
    return table_of(rows_of(**options))  # type: ignore[arg-type]


def true_score(size: float) -> float:
    """PU of the planted law."""
    return float(np.exp(-np.exp(LOG_C - ALPHA * np.log(size))))
