"""Tables of `fulgurite score`: what the rewards look like, how pairs come out, and a benchmark's sections."""

import statistics
from collections.abc import Mapping, Sequence

import torch
from rich.table import Table

from fulgurite.evaluation.reward_bench import BenchmarkResult
from fulgurite.lightning_modules.metrics.preference import wilson_interval
from fulgurite.lightning_modules.metrics.reward import reliability

__all__ = ["benchmark_table", "summary_table"]

Scored = tuple[str, list[float | None], list[int]]


def summary_table(rows: Sequence[Scored], omitted: Mapping[str, int]) -> Table:
    """Rewards of all answers; of pairs accuracy with Wilson's 95 % interval, margin, calibration; correlation with length.

    Args:
        rows: kind, rewards and answer tokens of each row.
        omitted: answers without a reward, by reason.
    """
    table = Table(title="rewards", title_justify="left", title_style="bold", show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    scored = [(r, n) for _, values, lengths in rows for r, n in zip(values, lengths, strict=True) if r is not None]
    rewards = [reward for reward, _ in scored]
    table.add_row("answers scored", f"{len(rewards):,} of {sum(len(values) for _, values, _ in rows):,}")
    for reason, count in sorted(omitted.items()):
        table.add_row(f"left out, {reason}", f"{count:,}")
    if rewards:
        table.add_row("reward", f"{statistics.fmean(rewards):+.4f} ± {statistics.pstdev(rewards):.4f}")
        table.add_row("lowest, highest", f"{min(rewards):+.4f}, {max(rewards):+.4f}")
        table.add_row("above zero", f"{sum(r > 0 for r in rewards) / len(rewards):.1%}")
    if len(scored) > 1 and len(set(rewards)) > 1 and len({n for _, n in scored}) > 1:
        table.add_row("correlation with length", f"{statistics.correlation(rewards, [n for _, n in scored]):+.3f}")
    leads = [v[0] - v[1] for kind, v, _ in rows if kind == "pair" and v[0] is not None and v[1] is not None]
    if leads:
        share = sum(1.0 if lead > 0 else 0.5 * (lead == 0) for lead in leads) / len(leads)
        low, high = wilson_interval(share, len(leads))
        table.add_row("pair accuracy [95 %]", f"{share:.1%} [{low:.1%}, {high:.1%}] of {len(leads):,}")
        table.add_row("mean margin", f"{statistics.fmean(leads):+.4f}")
        table.add_row("calibration error", f"{reliability(torch.tensor(leads)).error():.4f}")
    return table


def benchmark_table(result: BenchmarkResult, benchmark: str) -> Table:
    """Subsets and sections of a benchmark.

    Args:
        result: its figures.
        benchmark: its name.
    """
    table = Table(title=benchmark, title_justify="left", title_style="bold")
    for column in ("subset or section", "items", "score"):
        table.add_column(column, justify="left" if column.startswith("subset") else "right")
    for name, value in result.subsets.items():
        table.add_row(name, f"{result.counts[name]:,}", f"{value:.4f}")
    table.add_section()
    if benchmark == "rewardbench":
        for name, value in result.sections.items():
            table.add_row(name, "", f"{value:.6f}")
    table.add_row(f"mean of {len(result.sections)} sections", "", f"{result.overall:.6f}")
    return table
