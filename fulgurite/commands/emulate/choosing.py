"""Which layers stay and which of them are trained: from the clusters of the layers, or at even distances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fulgurite.models.emulator.clustering import clusters_of, kept_layers, uniform_layers
from fulgurite.models.emulator.sharing import border_positions, even_positions

__all__ = ["Chosen", "choose_layers"]


class Chosen(NamedTuple):
    """Layers by their numbers in the full model.

    Attributes:
        kept: that stay, rising.
        trained: those of them that are to be trained.
        clusters: of all layers; None without clustering.
    """

    kept: list[int]
    trained: list[int]
    clusters: list[list[int]] | None


def choose_layers(
    layers: int, keep: int, train: int, placement: str, neighbours: Sequence[float] | None = None
) -> Chosen:
    """Chooses the layers.

    Args:
        layers: of the full model, L.
        keep: that stay.
        train: that are trained, among them.
        placement: "even", "borders" (with `neighbours` only), or "ends" (without them only).
        neighbours: CKA of layers i and i + 1, (L − 1,): one layer of each cluster stays; None drops layers at even distances.

    Raises:
        ValueError: numbers that do not go into one another.
    """
    if neighbours is not None:
        clusters = clusters_of(neighbours, keep)
        kept = kept_layers(clusters)
        borders = [neighbours[cluster[0] - 1] for cluster in clusters[1:]]
        positions = border_positions(borders, train) if placement == "borders" else even_positions(keep, train)
        return Chosen(kept, [kept[i] for i in positions], clusters)
    if placement == "ends":
        front = -(-train // 2)
        kept = uniform_layers(layers, keep, train)
        return Chosen(kept, [*kept[:front], *kept[keep - (train - front) :]], None)
    kept = uniform_layers(layers, keep, 2)
    return Chosen(kept, [kept[i] for i in even_positions(keep, train)], None)
