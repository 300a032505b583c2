"""Every published position of a trained layer and every worked sharing map of the specification."""

from __future__ import annotations

import pytest

from fulgurite.models.emulator.sharing import border_positions, even_positions, sharing_map
from tests.models.emulator.published import PUBLISHED, REPEAT_ALL, REPEAT_NON_TRAINABLE


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_trained_layers_stand_where_the_rule_puts_them(name: str) -> None:
    layers, trained, frozen = PUBLISHED[name]
    kept = sorted(trained + frozen)
    assert len(kept) == {24: 12, 32: 22}[layers] and kept[0] == 0 and kept[-1] == layers - 1
    assert [kept[i] for i in even_positions(len(kept), 4)] == trained


def test_the_rule_rounds_up() -> None:
    assert even_positions(12, 4) == [0, 4, 8, 11] and even_positions(22, 4) == [0, 7, 14, 21]
    assert even_positions(15, 4) == [0, 5, 10, 14] and even_positions(5, 5) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("sharing", "expected"), [("repeat-all", REPEAT_ALL), ("repeat-non-trainable", REPEAT_NON_TRAINABLE)]
)
def test_worked_sharing_maps(sharing: str, expected: list[int]) -> None:
    layers, trained, frozen = PUBLISHED["1.3B ARC, WebQs"]
    assert sharing_map(layers, sorted(trained + frozen), trained, sharing) == expected


@pytest.mark.parametrize("name", PUBLISHED)
def test_kept_layers_stand_at_their_own_places(name: str) -> None:
    layers, trained, frozen = PUBLISHED[name]
    kept = sorted(trained + frozen)
    assert sharing_map(layers, kept, trained, "choose") == kept
    for sharing in ("repeat-all", "repeat-non-trainable"):
        found = sharing_map(layers, kept, trained, sharing)
        assert len(found) == layers and [found[k] for k in kept] == kept and set(found) == set(kept)
    removed = set(range(layers)) - set(kept)
    spared = sharing_map(layers, kept, trained, "repeat-non-trainable")
    between = [place for place in removed if {below(kept, place), above(kept, place)} - set(trained)]
    assert all(spared[place] not in trained for place in between)


def below(kept: list[int], place: int) -> int:
    return max(k for k in kept if k < place)


def above(kept: list[int], place: int) -> int:
    return min(k for k in kept if k > place)


def test_between_two_trained_layers_the_nearest_stands_in() -> None:
    assert sharing_map(6, [0, 5], [0, 5], "repeat-non-trainable") == [0, 0, 0, 5, 5, 5]
    assert sharing_map(5, [0, 4], [0, 4], "repeat-all") == [0, 0, 4, 4, 4]


def test_borders_are_the_deepest_cuts() -> None:
    assert border_positions([0.2, 0.9, 0.5, 0.8, 0.1], 4) == [0, 1, 3, 5]
    assert border_positions([0.2, 0.9], 2) == [0, 2]


@pytest.mark.parametrize("rule", [even_positions, lambda kept, trained: border_positions([0.5] * (kept - 1), trained)])
@pytest.mark.parametrize(("kept", "trained"), [(4, 1), (4, 5)])
def test_refuses_a_number_of_trained_layers(rule, kept: int, trained: int) -> None:
    with pytest.raises(ValueError, match=f"{trained} of {kept} kept layers were asked for"):
        rule(kept, trained)


@pytest.mark.parametrize(
    ("kept", "trained", "sharing", "words"),
    [
        ([0, 2], [0], "repeat", "sharing='repeat'; allowed are choose, repeat-all, repeat-non-trainable"),
        ([0, 2, 1], [0], "choose", "needed are rising numbers"),
        ([0, 4], [0], "choose", "from 0 to 3"),
        ([0, 2], [1], "choose", "trained ones among them"),
    ],
)
def test_refuses_maps(kept: list[int], trained: list[int], sharing: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        sharing_map(4, kept, trained, sharing)
