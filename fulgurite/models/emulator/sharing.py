"""Which kept layers are trained, and which of them stand in for the layers that were removed (CRaSh, arXiv 2310.15477).

Trained are t of the m kept layers at the positions ceil(i · (m − 1) / (t − 1)), i = 0 … t − 1: all six lists in the paper's scripts
fit this rule. Sharing gives the emulator its full depth back: at the place of a removed layer the kept layer with the nearest
number runs a second time, of two that are equally near the later one.

    choose                 no sharing: the emulator has m layers
    repeat-all             the nearest layer, also where it is a trained one: then its frozen pre-trained weights
    repeat-non-trainable   where the nearest is trained, its neighbour on the other side, unless that one is trained too
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["SHARING", "border_positions", "even_positions", "sharing_map"]

SHARING = ("choose", "repeat-all", "repeat-non-trainable")


def even_positions(kept: int, trained: int) -> list[int]:
    """The published rule: positions of the trained layers among the kept ones, (t,).

    Args:
        kept: m.
        trained: t, from 2, so that the first and the last are among them, to m.

    Raises:
        ValueError: another t.
    """
    _check(kept, trained)
    return [-(-i * (kept - 1) // (trained - 1)) for i in range(trained)]


def border_positions(borders: Sequence[float], trained: int) -> list[int]:
    """The first and the last position, and those behind the deepest cuts: the first kept layers of what differs most.

    Args:
        borders: CKA across the border before each kept layer but the first, (m − 1,).
        trained: t, from 2 to m.

    Raises:
        ValueError: another t.
    """
    last = len(borders)
    _check(last + 1, trained)
    deepest = sorted(range(1, last), key=lambda position: (borders[position - 1], position))
    return sorted([0, last, *deepest[: trained - 2]])


def sharing_map(layers: int, kept: Sequence[int], trained: Sequence[int], sharing: str) -> list[int]:
    """The kept layer that runs at each place of the emulator: (m,) for "choose", (L,) for the others.

    Args:
        layers: of the full model, L.
        kept: numbers of the kept layers, rising.
        trained: those of them that are trained.
        sharing: one of :data:`SHARING`.

    Raises:
        ValueError: an unknown kind of sharing; numbers that are not layers, not rising, or trained and not kept.
    """
    if sharing not in SHARING:
        raise ValueError(f"sharing_map: sharing={sharing!r}; allowed are {', '.join(SHARING)}")
    good = bool(kept) and list(kept) == sorted(set(kept)) and kept[0] >= 0 and kept[-1] < layers
    if not good or not set(trained) <= set(kept):
        raise ValueError(
            f"sharing_map: kept={list(kept)}, trained={list(trained)} of {layers} layers; needed are rising numbers from 0 to "
            f"{layers - 1}, and trained ones among them"
        )
    if sharing == "choose":
        return list(kept)
    return [
        _stand_in(place, kept, set(trained) if sharing == "repeat-non-trainable" else set()) for place in range(layers)
    ]


def _stand_in(place: int, kept: Sequence[int], avoided: set[int]) -> int:
    if place in kept:
        return place
    left = max((k for k in kept if k < place), default=None)
    right = min((k for k in kept if k > place), default=None)
    if left is None or right is None:
        return kept[0] if left is None else kept[-1]
    nearest, other = (left, right) if place - left < right - place else (right, left)
    return other if nearest in avoided and other not in avoided else nearest


def _check(kept: int, trained: int) -> None:
    if not 2 <= trained <= kept:
        raise ValueError(
            f"trained layers: {trained} of {kept} kept layers were asked for; allowed are 2, the first and the last, to {kept}"
        )
