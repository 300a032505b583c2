"""Clusters, borders, and Offsite-Tuning's baseline put together."""

from __future__ import annotations

from fulgurite.commands.emulate.choosing import choose_layers


def test_one_layer_of_each_cluster_and_the_published_rule() -> None:
    found = choose_layers(8, 4, 3, "even", [0.2, 0.99, 0.98, 0.5, 0.97, 0.96, 0.4])
    assert found.clusters == [[0], [1, 2, 3], [4, 5, 6], [7]]
    assert found.kept == [0, 2, 5, 7] and found.trained == [0, 5, 7]


def test_borders() -> None:
    found = choose_layers(8, 4, 3, "borders", [0.2, 0.99, 0.98, 0.5, 0.97, 0.96, 0.4])
    assert found.kept == [0, 2, 5, 7] and found.trained == [0, 2, 7], "the deepest cut lies before layer 1"


def test_the_baseline_trains_the_ends() -> None:
    found = choose_layers(24, 12, 4, "ends")
    assert found.kept == [0, 1, 2, 5, 7, 10, 13, 16, 18, 21, 22, 23] and found.trained == [0, 1, 22, 23]
    assert found.clusters is None


def test_uniform_with_trained_layers_spread() -> None:
    found = choose_layers(24, 12, 4, "even")
    assert len(found.kept) == 12 and found.kept[0] == 0 and found.kept[-1] == 23
    assert found.trained == [found.kept[i] for i in (0, 4, 8, 11)]
