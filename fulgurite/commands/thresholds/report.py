"""What a sweep over budgets shows: thresholds, tables, and the picture of the metric against tunable parameters.

With mean and standard deviation (n − 1) over seeds at each number n of tunable parameters:

    low threshold  = smallest n whose mean − s.d. is above the floor (random guess, majority, or the untrained model)
    high threshold = smallest n whose mean is at least that of full tuning − tolerance

With one seed the deviation counts as zero. Of a classification the new head is trained at every n; it alone, on the frozen
backbone, stands in the tables for comparison.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

from fulgurite.callbacks.picture import save

__all__ = ["Curve", "Point", "curves", "draw", "summary_table", "table"]


class Point(NamedTuple):
    """One number of tunable parameters: mean and standard deviation over seeds, and how many there were."""

    budget: int
    tunable: float
    mean: float
    deviation: float
    seeds: int


class Curve(NamedTuple):
    """One backbone under one method.

    Attributes:
        parameters: of the backbone.
        floor: what has to be exceeded.
        head: the new head alone on the frozen backbone, None where there is none.
        full: full tuning, None where it was not run.
        low: the low threshold in tunable parameters, None where no budget reached it.
        high: the high threshold.
    """

    backbone: str
    method: str
    parameters: int
    points: list[Point]
    floor: float
    head: Point | None
    full: Point | None
    low: float | None
    high: float | None


def curves(
    results: Sequence[dict[str, Any]], sizes: dict[str, int], floors: dict[str, float], tolerance: float
) -> list[Curve]:
    """The curve of each backbone and method, in the order in which they were asked for.

    Args:
        results: finished runs.
        sizes: parameters of each backbone.
        floors: floor of each backbone.
        tolerance: how far below full tuning counts as reaching it, in units of the metric.
    """
    found = []
    pairs = dict.fromkeys((r["backbone"], r["method"]) for r in results)
    for backbone in sizes:
        mine = [r for r in results if r["backbone"] == backbone]
        full = _point([r for r in mine if r["method"] == "full"])
        head = _point([r for r in mine if r["method"] == "head"])
        for method in [m for b, m in pairs if b == backbone and m not in ("full", "head", "untrained")]:
            budgets = sorted({r["budget"] for r in mine if r["method"] == method})
            points = [_point([r for r in mine if r["method"] == method and r["budget"] == n]) for n in budgets]
            known = [p for p in points if p is not None]
            low = next((p.tunable for p in known if p.mean - p.deviation > floors[backbone]), None)
            high = None
            if full is not None:
                high = next((p.tunable for p in known if p.mean >= full.mean - tolerance), None)
            found.append(Curve(backbone, method, sizes[backbone], known, floors[backbone], head, full, low, high))
    return found


def _point(results: list[dict[str, Any]]) -> Point | None:
    if not results:
        return None
    values = [r["value"] for r in results]
    tunable = statistics.fmean(r["tunable"] for r in results)
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return Point(results[0]["budget"], tunable, statistics.fmean(values), deviation, len(values))


def table(curve: Curve, metric: str) -> Table:
    """The points of one curve, the thresholds marked."""
    shown = Table(title=f"{_short(curve.backbone)}, {curve.method}", title_justify="left", title_style="bold")
    for name in ("tunable", metric, "± s.d.", "seeds", ""):
        shown.add_column(name, justify="left" if not name else "right")
    marked = [(curve.head, "head alone"), *((point, "") for point in curve.points), (curve.full, "full")]
    for point, mark in marked:
        if point is None:
            continue
        marks = [name for name, at in (("low", curve.low), ("high", curve.high)) if not mark and at == point.tunable]
        shown.add_row(
            f"{point.tunable:,.0f}",
            f"{point.mean:.4f}",
            f"{point.deviation:.4f}",
            str(point.seeds),
            mark or ", ".join(marks),
        )
    return shown


def summary_table(found: Sequence[Curve], metric: str) -> Table:
    """Thresholds of every curve, the smallest backbone first."""
    shown = Table(
        title=f"thresholds, in tunable parameters; floor and full: {metric}", title_justify="left", title_style="bold"
    )
    for name in ("backbone", "size", "method", "floor", "full", "low", "high"):
        shown.add_column(name, justify="left" if name in ("backbone", "method") else "right", overflow="fold")
    for curve in sorted(found, key=lambda c: (c.parameters, c.method)):
        shown.add_row(
            _short(curve.backbone),
            f"{curve.parameters:,}",
            curve.method,
            f"{curve.floor:.4f}",
            "" if curve.full is None else f"{curve.full.mean:.4f}",
            "not reached" if curve.low is None else f"{curve.low:,.0f}",
            "not reached" if curve.high is None else f"{curve.high:,.0f}",
        )
    return shown


def draw(found: Sequence[Curve], metric: str, file: Path) -> None:
    """The metric against tunable parameters, one panel per method, one curve with ± s.d. per backbone."""
    from matplotlib.figure import Figure

    methods = list(dict.fromkeys(curve.method for curve in found))
    figure = Figure(figsize=(max(5.6, 4.8 * len(methods)), 3.8), layout="constrained", dpi=110)
    panels = list(figure.subplots(1, len(methods), squeeze=False, sharey=True)[0])
    colours = {b: f"C{i}" for i, b in enumerate(dict.fromkeys(curve.backbone for curve in found))}
    for axes, method in zip(panels, methods, strict=True):
        for curve in (c for c in found if c.method == method):
            colour = colours[curve.backbone]
            label = f"{_short(curve.backbone)} ({_si(curve.parameters)})"
            axes.errorbar(
                [p.tunable for p in curve.points],
                [p.mean for p in curve.points],
                [p.deviation for p in curve.points],
                marker="o",
                markersize=3,
                capsize=2,
                color=colour,
                label=label,
            )
            if curve.full is not None:
                axes.axhline(curve.full.mean, color=colour, linestyle="--", linewidth=0.8)
            axes.axhline(curve.floor, color=colour, linestyle=":", linewidth=0.8)
            for at, marker in ((curve.low, "^"), (curve.high, "*")):
                point = next((p for p in curve.points if p.tunable == at), None)
                if point is not None:
                    axes.plot([point.tunable], [point.mean], marker, color=colour, markersize=9)
        axes.set_xscale("log")
        axes.set_xlabel("tunable parameters")
        axes.set_title(method.replace("_", " "))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    panels[0].set_ylabel(metric.replace("_", " "))
    figure.supxlabel("dashed: full tuning; dotted: floor; triangle: low threshold; star: high", fontsize=6)
    save(figure, file)


def _short(backbone: str) -> str:
    return backbone.rstrip("/").rsplit("/", 1)[-1]


def _si(count: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return str(count)
