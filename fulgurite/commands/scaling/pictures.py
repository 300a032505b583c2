"""The pictures of `fulgurite scaling`: PU over size, F over log size with its fits, instances, prediction beside truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fulgurite.callbacks.picture import save
from fulgurite.evaluation.pass_until.estimators import interval
from fulgurite.evaluation.pass_until.study import Study

__all__ = ["draw"]

_SHOWN = 12  # instances with a curve of their own


def draw(study: Study, folder: Path, by: str) -> list[Path]:
    """Draws all that the study has; of an earlier study's pictures those that this one does not have are removed.

    Args:
        study: what was found.
        folder: where the files go.
        by: size or compute, the name of the axis.
    """
    panels = {"pu": _scores, "f": _coordinates, "instances": _instances, "predictions": _predictions}
    files = []
    for name, panel in panels.items():
        absent = (name != "pu" and study.law is None) or (name == "instances" and study.instances is None)
        if absent or (name == "predictions" and not (study.held_out or study.predictions)):
            (folder / f"{name}.png").unlink(missing_ok=True)
            continue
        figure, axes = _figure()
        panel(axes, study)
        if name != "predictions":
            axes.set_xscale("log")
            axes.set_xlabel("parameters" if by == "size" else "compute")
        files.append(folder / f"{name}.png")
        save(figure, files[-1])
    return files


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.0), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    return figure, axes


def _bars(axes: Any, x: Any, y: Any, low: Any, high: Any, **options: Any) -> None:
    y, low, high = (np.asarray(values, float) for values in (y, low, high))
    axes.errorbar(x, y, [np.maximum(y - low, 0), np.maximum(high - y, 0)], capsize=2, markersize=4, **options)


def _scores(axes: Any, study: Study) -> None:
    found = study.scores
    sizes, pu = [s.size for s in found], [s.pu for s in found]
    if not study.counts.whole:
        task = ([s.task_low for s in found], [s.task_high for s in found])
        _bars(axes, sizes, pu, *task, fmt="none", color="C7", label="95 %, other instances too")
    _bars(
        axes,
        sizes,
        pu,
        [s.low for s in found],
        [s.high for s in found],
        fmt="o",
        color="C0",
        label="95 %, same instances",
    )
    if study.law is not None:
        grid = _grid(study)
        axes.plot(grid, np.exp(-np.exp(study.law.f(grid))), color="C1", label="law of the task's score")
    if study.instances is not None:
        grid = _grid(study)
        axes.plot(
            grid,
            [study.instances.rates(at).mean() for at in grid],
            "--",
            color="C2",
            label="mean of the instances' laws",
        )
    axes.set_yscale("log")
    axes.set_ylabel("PU, mean of instances")
    axes.set_title(_verdict(study), fontsize=9)
    axes.legend(fontsize=7)


def _coordinates(axes: Any, study: Study) -> None:
    points, law = study.points, study.law
    assert law is not None
    inside = np.array([name in study.fitted for name in points.models])
    low, high = np.percentile(points.drawn, (2.5, 97.5), axis=0)
    for chosen, colour, label in ((inside, "C0", "fitted"), (~inside, "C3", "not fitted")):
        if chosen.any():
            _bars(
                axes,
                points.sizes[chosen],
                points.f[chosen],
                low[chosen],
                high[chosen],
                fmt="o",
                color=colour,
                label=label,
            )
    grid = _grid(study)
    axes.plot(grid, law.f(grid), color="C1", label="law")
    every = law.drawn[:, :1] - law.drawn[:, 1:] * np.log(grid)
    axes.fill_between(grid, *np.percentile(every, (2.5, 97.5), axis=0), color="C1", alpha=0.2)
    for form in study.forms:
        if form.name != "linear" and form.aicc is not None:
            axes.plot(points.sizes[inside], form.curve, ":", linewidth=1, label=f"{form.name}, AICc {form.aicc:.1f}")
    axes.set_ylabel("log(−log PU)")
    axes.set_title(_verdict(study), fontsize=9)
    axes.legend(fontsize=7)


def _instances(axes: Any, study: Study) -> None:
    """Instances from the easiest to the hardest, evenly chosen, with their intervals and their laws."""
    counts, fit = study.counts, study.instances
    assert fit is not None
    order = np.argsort(-counts.rates.mean(0), kind="stable")
    chosen = order[np.unique(np.linspace(0, len(order) - 1, _SHOWN).astype(int))]
    low, high = interval(counts.n, counts.c, counts.r)
    grid = _grid(study)
    curves = fit.curves(grid)
    least = 0.3 / counts.n.max()
    for number, item in enumerate(chosen):
        colour = f"C{number % 10}"
        passed = counts.c[:, item] > 0
        axes.plot(grid, curves[:, item], color=colour, linewidth=1)
        ends = (low[passed, item], high[passed, item])
        _bars(axes, counts.sizes[passed], counts.rates[passed, item], *ends, fmt="o", color=colour, linewidth=0.8)
        axes.plot(counts.sizes[~passed], high[~passed, item], "v", color=colour, markersize=4, alpha=0.6)
    axes.set_yscale("log")
    axes.set_ylim(bottom=least)
    axes.set_ylabel("pass rate")
    axes.set_title(f"{len(chosen)} of {len(order)} instances; triangles: no pass, upper limit", fontsize=9)


def _predictions(axes: Any, study: Study) -> None:
    shown = [*study.held_out, *study.predictions]
    places = np.arange(len(shown))[::-1]
    ends = np.array(
        [[one.pu if np.isnan(one.low) else one.low, one.pu if np.isnan(one.high) else one.high] for one in shown]
    )
    pu = np.array([one.pu for one in shown])
    axes.errorbar(
        pu,
        places,
        xerr=[np.maximum(pu - ends[:, 0], 0), np.maximum(ends[:, 1] - pu, 0)],
        fmt="o",
        capsize=2,
        label="predicted",
    )
    known = [(one.truth, place) for one, place in zip(shown, places, strict=True) if one.truth]
    if known:
        axes.plot(*zip(*known, strict=True), "x", color="C3", label="measured")
    names = [
        f"{one.model}\n{one.fit}" + (", held out" if i < len(study.held_out) else "") for i, one in enumerate(shown)
    ]
    axes.set_yticks(places, names, fontsize=6)
    axes.set_xscale("log")
    axes.set_xlabel("PU")
    axes.set_title(_verdict(study), fontsize=9)
    axes.legend(fontsize=7)


def _grid(study: Study) -> np.ndarray:
    most = max([study.counts.sizes[-1], *(one.size for one in study.predictions)])
    return np.geomspace(study.counts.sizes[0], most, 60)


def _verdict(study: Study) -> str:
    told = {
        "rejected": "the law does not hold here",
        "not rejected": "the law is not rejected",
        "not tested": "the law was not tested",
    }
    return told[study.verdict]
