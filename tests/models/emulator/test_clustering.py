"""Clusters equal the agglomeration of the released code; kept layers; LayerDrop as published."""

from __future__ import annotations

import random

import pytest

from fulgurite.models.emulator.clustering import clusters_of, kept_layers, uniform_layers


def agglomerated(neighbours: list[float], count: int) -> list[list[int]]:
    """The released code's loop: merge the neighbouring clusters whose meeting layers are most alike, the first of equals."""
    clusters = [[i] for i in range(len(neighbours) + 1)]
    while len(clusters) > count:
        alike = [neighbours[clusters[i][-1]] for i in range(len(clusters) - 1)]
        best = alike.index(max(alike))
        clusters[best : best + 2] = [clusters[best] + clusters[best + 1]]
    return clusters


@pytest.mark.parametrize("seed", range(20))
def test_cut_equals_agglomeration(seed: int) -> None:
    draw = random.Random(seed)
    layers = draw.randint(2, 30)
    neighbours = [round(draw.random(), draw.choice([1, 6])) for _ in range(layers - 1)]  # one digit: many are equal
    for count in range(2, layers + 1):
        assert clusters_of(neighbours, count) == agglomerated(neighbours, count)


def test_the_smallest_values_are_cut() -> None:
    assert clusters_of([0.3, 0.9, 0.8, 0.99, 0.5], 3) == [[0], [1, 2, 3, 4], [5]]


def test_kept_are_upper_medians_and_both_ends() -> None:
    assert kept_layers([[0, 1, 2], [3, 4], [5, 6, 7], [8], [9, 10, 11, 12]]) == [0, 4, 6, 8, 12]


def test_layer_drop_as_offsite_tuning_publishes_it() -> None:
    assert uniform_layers(24, 12, 4) == [0, 1, 2, 5, 7, 10, 13, 16, 18, 21, 22, 23]
    dropped = uniform_layers(32, 22, 4)
    assert len(dropped) == 22 and dropped[:2] == [0, 1] and dropped[-2:] == [30, 31] and dropped == sorted(set(dropped))
    assert uniform_layers(10, 4, 4) == [0, 1, 8, 9]
    assert uniform_layers(10, 4, 3) == [0, 1, 5, 9]


@pytest.mark.parametrize(
    ("neighbours", "count", "words"),
    [
        ([0.1, 0.2], 4, "4 clusters of 3 layers were asked for; allowed are 2 to 3"),
        ([0.1, 0.2], 1, "1 clusters of 3 layers"),
        ([0.1, float("nan")], 2, "CKA of layers 1 and 2 is nan"),
    ],
)
def test_refuses(neighbours: list[float], count: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        clusters_of(neighbours, count)


@pytest.mark.parametrize(("layers", "kept", "ends"), [(4, 5, 2), (4, 3, 4), (4, 3, 1)])
def test_refuses_numbers_that_do_not_fit(layers: int, kept: int, ends: int) -> None:
    with pytest.raises(ValueError, match=f"{kept} of {layers} layers with {ends} at the ends"):
        uniform_layers(layers, kept, ends)
