"""The picture of a sparse adapter: ranks left per layer and module, their history, and the stages of a schedule."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fulgurite.callbacks.sparsity_layout import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

_BLUE, _ORANGE, _GREY = "#1f5a99", "#d9772b", "#8a8f98"
_MOST_NUMBERS = 400  # cells beyond which the numbers in them would be too small to read


def draw(
    grid: Grid, history: Sequence[tuple[int, int]], ranks: int, stages: Sequence[Mapping[str, Any]], file: Path
) -> None:
    """Writes the picture as PNG.

    Args:
        grid: ranks left at the end
        history: (optimizer step, gates away from zero)
        ranks: number of all ranks
        stages: reports of the stages of a schedule, or none
        file: where to; any suffix
    """
    from matplotlib.figure import Figure

    kinds, layers = len(grid.kinds), len(grid.layers)
    first = min(max(0.88 * kinds + 0.8, 4.2), 14.0)
    widths = [first, 4.6, *([4.6] if stages else [])]
    height = min(max(0.3 * layers + 1.9, 3.8), 12.0)
    # A Figure of its own, not pyplot's: no global state, no window system.
    figure = Figure(figsize=(sum(widths), height), layout="constrained", dpi=150)
    axes = figure.subplots(1, len(widths), width_ratios=widths)
    _heat_map(axes[0], grid)
    _curve(axes[1], history, ranks)
    if stages:
        _trade_off(axes[2], stages)
    figure.savefig(file, format="png")


def _heat_map(axes: "Axes", grid: Grid) -> None:
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    values = np.array([[np.nan if v is None else float(v) for v in row] for row in grid.left])
    colours = LinearSegmentedColormap.from_list("ranks", ["#eef1f5", "#9fc3e6", _BLUE, "#0b2545"])
    image = axes.imshow(np.ma.masked_invalid(values), aspect="auto", cmap=colours, vmin=0, vmax=max(grid.full, 1))
    axes.set_xticks(range(len(grid.kinds)), [kind.replace(".", ".\n") for kind in grid.kinds], fontsize=9)
    step = max(1, len(grid.layers) // 32)
    axes.set_yticks(range(0, len(grid.layers), step), grid.layers[::step])
    axes.set_ylabel("layer")
    axes.set_title(f"ranks left, of {grid.full} per module", loc="left", fontsize=11)
    axes.set_xticks([x - 0.5 for x in range(1, len(grid.kinds))], minor=True)
    axes.set_yticks([y - 0.5 for y in range(1, len(grid.layers))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if values.size <= _MOST_NUMBERS:
        for y, row in enumerate(grid.left):
            for x, value in enumerate(row):
                if value is not None:
                    tint = _GREY if value == 0 else "white" if value > 0.45 * grid.full else "#0b2545"
                    axes.text(x, y, str(value), ha="center", va="center", color=tint, fontsize=9)
    else:
        axes.figure.colorbar(image, ax=axes, shrink=0.8)


def _curve(axes: "Axes", history: Sequence[tuple[int, int]], ranks: int) -> None:
    from matplotlib.ticker import MaxNLocator

    steps = [step for step, _ in history]
    counts = [count for _, count in history]
    axes.plot(steps, counts, color=_BLUE, linewidth=2)
    axes.fill_between(steps, counts, color=_BLUE, alpha=0.08)
    axes.axhline(ranks, color=_GREY, linewidth=1, linestyle=(0, (4, 3)))
    if counts:
        axes.annotate(
            f"{counts[-1]} of {ranks}",
            (steps[-1], counts[-1]),
            # Below the curve, which only falls: above it the words would cross the line.
            xytext=(-4, -9) if counts[-1] > 0.2 * ranks else (-4, 12),
            textcoords="offset points",
            ha="right",
            va="top" if counts[-1] > 0.2 * ranks else "bottom",
            color=_BLUE,
        )
    axes.set_ylim(0, 1.08 * ranks)
    axes.set_xlim(left=min(steps, default=0))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.set_xlabel("optimizer step")
    axes.set_title("gates away from zero", loc="left", fontsize=11)
    _light(axes)


def _trade_off(axes: "Axes", stages: Sequence[Mapping[str, Any]]) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    kept = [report["parameters_kept"] for report in stages]
    for key, colour, marker in (("memorization", _ORANGE, "o"), ("generalization", _BLUE, "s")):
        points = [(x, report[key]) for x, report in zip(kept, stages, strict=True) if report.get(key) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linewidth=1.8, markersize=5, label=key)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.invert_xaxis()  # the schedule goes from dense to sparse
    axes.set_xlabel("adapter parameters kept")
    axes.set_ylabel("% of stage 0")
    axes.set_title("sparser from stage to stage", loc="left", fontsize=11)
    axes.legend(frameon=False)
    _light(axes)


def _light(axes: "Axes") -> None:
    axes.grid(axis="y", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
