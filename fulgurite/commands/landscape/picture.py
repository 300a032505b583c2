"""The loss along the line from a model to another, or over the plane through three."""

from __future__ import annotations

from pathlib import Path

from fulgurite.callbacks.picture import save

__all__ = ["draw"]


def draw(losses: dict[tuple[float, float], float], names: list[str], file: Path) -> None:
    """Draws a line for two models, contours for three.

    Args:
        losses: by (a, b); NaN leaves a gap.
        names: of the models.
        file: where to.
    """
    import numpy as np
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 4.4), layout="constrained", dpi=110)
    axes = figure.subplots()
    along = sorted({a for a, _ in losses})
    if len(names) == 2:
        axes.plot(along, [losses[a, 0.0] for a in along], ".-")
        axes.set_xlabel(f"a: 0 is {names[0]}, 1 is {names[1]}")
        axes.set_ylabel("loss")
        axes.grid(alpha=0.3)
    else:
        up = sorted({b for _, b in losses})
        heights = np.array([[losses[a, b] for a in along] for b in up])
        # One far corner may be a hundred times as high as all else.
        shown = np.minimum(heights, np.nanpercentile(heights, 90))
        drawn = axes.contourf(along, up, shown, levels=24, cmap="viridis")
        figure.colorbar(drawn, ax=axes, label="loss, cut at its 90 % quantile")
        for name, place in zip(names, ((0, 0), (1, 0), (0, 1)), strict=True):
            axes.plot(*place, "o", color="white", markeredgecolor="black")
            axes.annotate(name, place, textcoords="offset points", xytext=(6, 5), color="white", fontsize=8)
        axes.set_xlabel(f"a: towards {names[1]}")
        axes.set_ylabel(f"b: towards {names[2]}")
    save(figure, file)
