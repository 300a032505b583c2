"""Which answers are compared: the published rules, ties, seeds, and what becomes labels or groups."""

import math

import pytest

from fulgurite.data.readers.ultrafeedback import completion_score
from fulgurite.data.records.conversation import Turn
from fulgurite.data.records.findings import Finding
from fulgurite.data.records.preference import Labelled, Preference, Ranked
from fulgurite.data.trees.comparisons import Comparison, compare, pair_up

HI = (Turn("user", "hi"),)


def test_all_pairs_without_ties() -> None:
    assert pair_up((4.75, 4.75, 3, 2)) == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert pair_up((1, 2, 3)) == [(1, 0), (2, 0), (2, 1)]
    assert pair_up((2, 2)) == []


def test_best_against_worst() -> None:
    assert pair_up((3, 5, 5, 1, 1), "best_vs_worst") == [(1, 3)]
    assert pair_up((3, 3), "best_vs_worst") == []


def test_best_against_random_is_random_over_rows_and_the_same_every_time() -> None:
    found = [pair_up((5, 1, 2, 3), "best_vs_random", seed=f"0|{row}|x") for row in range(3000)]
    assert found == [pair_up((5, 1, 2, 3), "best_vs_random", seed=f"0|{row}|x") for row in range(3000)]
    assert {chosen for ((chosen, _),) in found} == {0}
    counts = [sum(rejected == answer for ((_, rejected),) in found) for answer in (1, 2, 3)]
    assert min(counts) > 900  # 1000 expected, σ = 26
    # The first answer is as likely as another: the binarisation that seeded in each row took it nearly always.
    first = [pair_up((1, 5, 1, 1), "best_vs_random", seed=row)[0][1] for row in range(3000)]
    assert 900 < sum(rejected == 0 for rejected in first) < 1100


def test_ties_with_the_best() -> None:
    assert all(pair_up((5, 5, 1), "best_vs_random", seed=i) == [(0, 2)] for i in range(20))
    assert {pair_up((5, 5, 1), "best_vs_random", ties=True, seed=i)[0] for i in range(50)} == {(0, 1), (0, 2)}
    assert pair_up((5, 5), "best_vs_random") == []


def test_an_unknown_rule() -> None:
    with pytest.raises(ValueError, match="rule 'best'; allowed are 'all'"):
        pair_up((1, 2), "best")


def ranked(*scores: float, answers: tuple[str, ...] | None = None) -> Ranked:
    texts = tuple(f"a{i}" for i in range(len(scores))) if answers is None else answers
    return Ranked(HI, texts, scores, "s", 7, weight=2.0, tag="t")


def test_ranked_rows_become_pairs_labels_and_groups() -> None:
    pairs = compare(ranked(4, 1, 2), "pairs")
    assert isinstance(pairs, Comparison)
    assert pairs.pairs == ((0, 1, 3.0), (0, 2, 2.0), (2, 1, 1.0)) and pairs.labels == () and pairs.scores == ()
    assert (pairs.where, pairs.weight, pairs.tag, pairs.completions) == ("s, row 7", 2.0, "t", ("a0", "a1", "a2"))
    labels = compare(ranked(4, 1, 2), "labels", "best_vs_worst")
    assert isinstance(labels, Comparison) and labels.labels == ((0, True), (1, False)) and labels.pairs == ()
    every = compare(ranked(4, 1, 2), "labels")
    assert isinstance(every, Comparison) and len(every.labels) == 6
    groups = compare(ranked(4, 4, 4), "groups")
    assert isinstance(groups, Comparison) and groups.scores == (4, 4, 4) and groups.pairs == ()


def test_rows_without_a_pair_are_findings() -> None:
    ties = compare(ranked(3, 3), "pairs")
    assert isinstance(ties, Finding) and ties.reason == "no two answers with different scores" and "3, 3" in ties.detail
    same = compare(ranked(3, 2, answers=("a", "a ")), "pairs")
    assert isinstance(same, Finding) and same.reason == "chosen equal to rejected"
    partly = compare(ranked(3, 2, 1, answers=("a", "a", "b")), "pairs")
    assert isinstance(partly, Comparison) and partly.pairs == ((0, 2, 2.0), (1, 2, 1.0))


def test_pairs_become_labels_and_labels_no_pairs() -> None:
    pair = Preference(HI, "good", "bad", "s", 1)
    found = compare(pair, "labels")
    assert isinstance(found, Comparison) and found.labels == ((0, True), (1, False))
    assert compare(Preference(HI, "good", "bad", "s", 1, margin=2.5), "pairs").pairs == ((0, 1, 2.5),)  # type: ignore[union-attr]
    single = Labelled(HI, "good", False, "s", 4)
    assert compare(single, "labels").labels == ((0, False),)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="s, row 4: a single answer with a label cannot be compared as 'pairs'"):
        compare(single, "pairs")
    with pytest.raises(ValueError, match="a pair without scores cannot be compared as 'groups'"):
        compare(pair, "groups")
    with pytest.raises(ValueError, match="kind 'pair'"):
        compare(pair, "pair")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("completion", "score", "message"),
    [
        ({"annotations": {"helpfulness": {"Rating": "7"}}}, "mean", "helpfulness is rated 7, allowed is 1 to 5"),
        ({"annotations": {"honesty": {"Rating": "0"}}}, "honesty", "honesty is rated 0"),
        (
            {"annotations": {"harmlessness": {"Rating": "2"}}},
            "harmlessness",
            "harmlessness is rated 2, allowed is 0 to 1",
        ),
        ({"overall_score": 11.0}, "overall", "overall_score is 11, allowed is 1 to 10"),
        ({"overall_score": 0.5}, "overall", "overall_score is 0.5"),
    ],
)
def test_a_rating_outside_its_scale_is_no_score_and_is_told(completion, score, message) -> None:
    value, note = completion_score(completion, score)
    assert math.isnan(value) and note is not None and note.startswith("rating outside its scale") and message in note


def test_another_aspects_rating_does_not_matter_to_one_aspect() -> None:
    completion = {"annotations": {"helpfulness": {"Rating": "7"}, "honesty": {"Rating": "4"}}}
    assert completion_score(completion, "honesty") == (4.0, None)


def test_margins_are_divided_by_the_scale_of_their_annotation() -> None:
    ranked = Ranked(HI, ("a", "b", "c"), (5.0, 3.0, 1.0), "s", 1, scale=4.0)
    found = compare(ranked, "pairs", margin_scale="annotation")
    assert [m for _, _, m in found.pairs] == [0.5, 1.0, 0.5]  # type: ignore[union-attr]
    assert [m for _, _, m in compare(ranked, "pairs", margin_scale=2).pairs] == [1.0, 2.0, 1.0]  # type: ignore[union-attr]
    known = Preference(HI, "a", "b", "s", 1, margin=3.0, scale=9.0)
    assert compare(known, "pairs", margin_scale="annotation").pairs == ((0, 1, 3 / 9),)  # type: ignore[union-attr]
    without = Preference(HI, "a", "b", "s", 1)
    assert compare(without, "pairs", margin_scale="annotation").pairs == ((0, 1, 0.0),)  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="s, row 1: the margin is 3, and nobody says on which scale"):
        compare(Preference(HI, "a", "b", "s", 1, margin=3.0), "pairs", margin_scale="annotation")
    with pytest.raises(ValueError, match="more than the 1 that its scale allows"):
        compare(Preference(HI, "a", "b", "s", 1, margin=3.0, scale=1.0), "pairs", margin_scale="annotation")


def test_the_direct_flag_goes_from_the_row_to_its_pairs() -> None:
    assert compare(Preference(HI, "a", "b", "s", 1, direct=True), "pairs").direct  # type: ignore[union-attr]
    assert not compare(Preference(HI, "a", "b", "s", 1), "pairs").direct  # type: ignore[union-attr]
