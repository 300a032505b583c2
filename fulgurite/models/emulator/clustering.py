"""Clusters of neighbouring layers, and the layers that an emulator keeps of them (CRaSh, arXiv 2310.15477, section 3.2).

The released code begins with one cluster for each layer and merges, until k are left, the two neighbours whose meeting layers (the
last of the left one, the first of the right one) have the largest CKA. These values never change while clusters merge, so that the
result is a cut: the k − 1 smallest of the L − 1 values between neighbouring layers separate the clusters.

Of a cluster its upper median stays, `cluster[len // 2]`; of the first cluster the first layer and of the last cluster the last one,
which the released code leaves to chance: with 0 and 1 in one cluster it would drop the layer that reads the embeddings.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

__all__ = ["clusters_of", "kept_layers", "uniform_layers"]


def clusters_of(neighbours: Sequence[float], count: int) -> list[list[int]]:
    """Clusters of the layers 0 … L − 1, each a run of neighbours, in order.

    Args:
        neighbours: CKA of layers i and i + 1 for each i, L − 1 values. Of equal ones the later is cut first, as the released code
            merges the earlier pair first.
        count: clusters k, from 2 to L.

    Raises:
        ValueError: fewer layers than clusters, fewer than two clusters, or a value that is no number.
    """
    layers = len(neighbours) + 1
    if not 2 <= count <= layers:
        raise ValueError(
            f"clusters_of: {count} clusters of {layers} layers were asked for; allowed are 2 to {layers}; give another number"
        )
    for place, value in enumerate(neighbours):
        if not math.isfinite(value):
            raise ValueError(
                f"clusters_of: the CKA of layers {place} and {place + 1} is {value}; numbers are needed; look at the model's states"
            )
    cuts = sorted(range(layers - 1), key=lambda i: (neighbours[i], -i))[: count - 1]
    borders = [0, *(i + 1 for i in sorted(cuts)), layers]
    return [list(range(a, b)) for a, b in itertools.pairwise(borders)]


def kept_layers(clusters: Sequence[Sequence[int]]) -> list[int]:
    """The layer that stays of each cluster, in order.

    Args:
        clusters: as :func:`clusters_of` gives them, at least two.
    """
    return [clusters[0][0], *(cluster[len(cluster) // 2] for cluster in clusters[1:-1]), clusters[-1][-1]]


def uniform_layers(layers: int, kept: int, ends: int) -> list[int]:
    """LayerDrop at even distances, the baseline: what stays of the middle layers, between those that are trained at both ends.

    Of n middle layers the k at round(i · (n − 1) / (k − 1)) stay, as in Offsite-Tuning (arXiv 2302.04870).

    Args:
        layers: of the full model, L.
        kept: that stay in all, those at the ends included.
        ends: layers at both ends that stay in any case, the larger half of them at the front.

    Raises:
        ValueError: numbers that do not go into one another.
    """
    middle, inside = layers - ends, kept - ends
    if not 2 <= ends <= kept <= layers:
        raise ValueError(
            f"uniform_layers: {kept} of {layers} layers with {ends} at the ends were asked for; needed is 2 <= ends <= kept "
            "<= layers"
        )
    front = -(-ends // 2)
    if inside == 1:
        chosen = [middle // 2]
    else:
        chosen = [round(i * (middle - 1) / (inside - 1)) for i in range(inside)]
    return [*range(front), *(front + i for i in chosen), *range(layers - (ends - front), layers)]
