"""A row of curves as a PNG that is written whole or not at all."""

from pathlib import Path
from typing import TYPE_CHECKING

from fulgurite.whole_files import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["panels", "save"]


def panels(count: int) -> "tuple[Figure, list[Axes]]":
    """A figure with as many axes beside each other, optimizer steps along each.

    Args:
        count: number of axes
    """
    from matplotlib.figure import Figure

    # A Figure of its own, not pyplot's: no global state, no window system.
    figure = Figure(figsize=(4.4 * count, 3.3), layout="constrained", dpi=110)
    row: list[Axes] = list(figure.subplots(1, count, squeeze=False)[0])
    for axes in row:
        axes.set_xlabel("optimizer step")
        axes.grid(alpha=0.3)
    return figure, row


def save(figure: "Figure", file: Path) -> None:
    """Writes the figure, whole or not at all.

    Args:
        figure: what to write
        file: where to; its folder is made
    """
    with whole_file(file) as scratch:
        figure.savefig(scratch, format="png")
