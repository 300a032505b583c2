"""The picture of a controllability report: level reached over level asked for, and the front over two objectives."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from fulgurite.callbacks.picture import panels, save
from fulgurite.evaluation.controllability import ControlReport, pareto_front

__all__ = ["draw_control"]

_COLOURS = ("tab:blue", "tab:orange", "tab:green", "tab:red", "tab:purple")
_MARKERS = "osD^v"


def draw_control(reports: Mapping[str, ControlReport], path: Path) -> None:
    """A panel with each objective controlled alone (the first model), and one per two objectives with every model's front.

    Args:
        reports: by the model's name; the first is the one that the picture is about.
        path: the PNG to write.
    """
    first = next(iter(reports.values()))
    pairs = [pair for pair in combinations(first.objectives, 2) if len(first.points(*pair)) > 1]
    figure, (alone, *fronts) = panels(1 + len(pairs))
    for colour, name in zip(_COLOURS, first.objectives, strict=False):
        low, high = first.objectives.scales[name]
        curve = [((x - low) / (high - low), (y - low) / (high - low)) for x, y in first.curve(name)]
        if curve:
            alone.plot(*zip(*curve, strict=True), color=colour, marker="o", label=f"{name} {low:g} to {high:g}")
    alone.plot((0, 1), (0, 1), color="0.6", linewidth=0.8, linestyle=":")
    alone.set_title("one objective controlled")
    alone.set_xlabel("level asked for, as a share of the scale")
    alone.set_ylabel("mean level reached")
    alone.legend(fontsize=7)
    for axes, pair in zip(fronts, pairs, strict=True):
        for number, (model, report) in enumerate(reports.items()):
            points = report.points(*pair)
            colour, marker = _COLOURS[number % len(_COLOURS)], _MARKERS[number % len(_MARKERS)]
            across, up = zip(*points.values(), strict=True)
            axes.scatter(across, up, color=colour, marker=marker, s=14, alpha=0.5)
            front = pareto_front(list(points.values()))
            axes.plot(*zip(*front, strict=True), color=colour, marker=marker, markersize=4, linewidth=1.4, label=model)
        axes.set_title("two objectives controlled")
        axes.set_xlabel(f"mean {pair[0]}")
        axes.set_ylabel(f"mean {pair[1]}")
        axes.legend(fontsize=7)
    save(figure, path)
