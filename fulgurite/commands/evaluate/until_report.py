"""The table and the picture of `fulgurite evaluate --until_passes r`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from fulgurite.callbacks.picture import save
from fulgurite.commands.evaluate.until_passes import UntilResult
from fulgurite.evaluation.pass_until.estimators import interval, unbiased

__all__ = ["draw", "rates_table"]


def rates_table(results: Sequence[UntilResult]) -> Table:
    """A line of each task.

    Args:
        results: of the tasks, all by one rule.
    """
    until = results[0].drawn.until
    by_task = until.of == "task"
    counted = f"{until.passes} passes" + (" of the task" if by_task else "")
    shown = Table(title=f"pass rates, draws until {counted} or {until.cap:,}", title_justify="left", title_style="bold")
    states = ("passes", "draws that count") if by_task else ("resolved", "at the cap", "open")
    errors = (
        ("± by draws", "95 % by draws") if by_task else ("± by draws", "± by task", "95 % by draws", "mean of logs")
    )
    for name in ("task", "items", *states, "draws", "draws/s", "mean of instances, PU", *errors):
        shown.add_column(name, justify="left" if name == "task" else "right")
    for result in results:
        made = sum(each.drawn for each in result.drawn.items)
        speed = f"{result.drawn.new / result.drawn.seconds:.1f}" if result.drawn.new else ""
        task, found = result.drawn.task(), result.drawn.states()
        cells = [str(number) for number in found.values()] if task is None else [str(task.c), f"{task.n:,}"]
        lead = [result.task, str(len(result.drawn.items)), *cells, f"{made:,}", speed]
        score = result.score
        if score is None:
            shown.add_row(*lead, "none")
            continue
        row = {
            "± by draws": f"{score.measurement_error:.2g}",
            "± by task": "" if np.isnan(score.task_error) else f"{score.task_error:.2g}",
            "95 % by draws": f"{score.low:.3g} to {score.high:.3g}",
            "mean of logs": "" if score.mean_log is None else f"{score.mean_log:.3f} ({score.log_instances} items)",
        }
        shown.add_row(*lead, f"{score.pu:.4g}", *(row[name] for name in errors))
    return shown


def draw(results: Sequence[UntilResult], path: Path) -> None:
    """A picture: the pass rate of each item that is done, with its interval, or passes over draws of a task that ended as a whole.

    Args:
        results: of the tasks.
        path: the PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.2 * len(results)), layout="constrained", dpi=110)
    for place, result in enumerate(results):
        axes = figure.add_subplot(len(results), 1, place + 1)
        axes.set_title(f"{result.task}: {result.score.pu:.3g}" if result.score else result.task, fontsize=9)
        axes.grid(alpha=0.3)
        if result.drawn.task() is not None:
            _passes(axes, result)
        elif result.counts:
            _rates(axes, result)
    save(figure, path)


def _passes(axes: Any, result: UntilResult) -> None:
    """Passes over the draws in their order, and the lines of the interval's ends."""
    task = result.drawn.task()
    assert task is not None
    places = [0, *(place + 1 for place in task.passed), task.n]
    axes.step(places, [*range(task.c + 1), task.c], where="post", label="passes")
    if result.score is not None:
        ends = np.array([0, task.n])
        axes.plot(ends, ends * result.score.pu, color="C1", label="the estimated rate")
        axes.fill_between(ends, ends * result.score.low, ends * result.score.high, color="C1", alpha=0.2, label="95 %")
    axes.set_xlabel("draws of the task, in the order fixed beforehand")
    axes.set_ylabel("passes")
    axes.legend(fontsize=8)


def _rates(axes: Any, result: UntilResult) -> None:
    """Items from the highest rate to the lowest; triangles are upper limits."""
    n, c, r = (np.array([getattr(each, name) for each in result.counts]) for name in ("n", "c", "r"))
    rates = unbiased(n, c, r)
    low, high = interval(n, c, r)
    order = np.argsort(np.where(rates > 0, rates, high * 1e-6))[::-1]
    x = np.arange(len(order))
    rates, low, high = rates[order], low[order], high[order]
    seen = rates > 0
    axes.errorbar(
        x[seen],
        rates[seen],
        [np.maximum(rates - low, 0)[seen], np.maximum(high - rates, 0)[seen]],
        fmt="o",
        markersize=3,
    )
    axes.plot(x[~seen], high[~seen], "v", markersize=4, color="C7", label="no pass: upper limit")
    axes.set_yscale("log")
    axes.set_xlabel("items by rate")
    axes.set_ylabel("pass rate, 95 %")
    if (~seen).any():
        axes.legend(fontsize=8)
