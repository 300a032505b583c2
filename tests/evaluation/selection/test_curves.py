"""Curves over n: the published vector, brute force over all subsets with ties by lot, pass@n, the bound of KL."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest

from fulgurite.evaluation.runner.statistics import majority, majority_at_k, pass_at_k
from fulgurite.evaluation.selection.curves import best_of_n, kl_bound, over_subsets, steps_to


def by_enumeration(scores: list[float | None], values: list[float], n: int) -> Fraction:
    """Over every subset: the mean value of the samples that share its highest score."""
    subsets = list(itertools.combinations(range(len(scores)), n))
    total = Fraction(0)
    for subset in subsets:
        ranks = [-math.inf if scores[i] is None else scores[i] for i in subset]
        winners = [i for i, rank in zip(subset, ranks, strict=True) if rank == max(ranks)]
        total += sum(Fraction(values[i]) for i in winners) / len(winners)
    return total / len(subsets)


def test_the_vector_of_the_specification() -> None:
    found = [best_of_n([0.1, 0.4, 0.4, 0.9], [1, 0, 1, 0], n) for n in (1, 2, 3, 4)]
    assert found == pytest.approx([0.5, 0.25, 0.125, 0.0], abs=1e-15)


@pytest.mark.parametrize("seed", range(8))
def test_the_formula_equals_enumeration_with_ties_and_without_scores(seed: int) -> None:
    draw = random.Random(seed)
    total = draw.randint(1, 8)
    scores: list[float | None] = [draw.choice([None, -1.5, 0.0, 0.0, 2.0, 7.25]) for _ in range(total)]
    values = [float(draw.randint(-3, 3)) for _ in range(total)]
    for n in range(1, total + 1):
        assert best_of_n(scores, values, n) == pytest.approx(float(by_enumeration(scores, values, n)), abs=1e-12)


def test_with_its_own_value_as_score_best_of_n_is_pass_at_n_and_one_sample_is_the_mean() -> None:
    correct = [0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    for n in range(1, 8):
        assert best_of_n(correct, correct, n) == pytest.approx(pass_at_k(7, 2, n), abs=1e-12)
    assert best_of_n([3.0, 1.0, 2.0], [5.0, 6.0, 10.0], 1) == pytest.approx(7.0)
    assert best_of_n([0.0] * 3, [5.0, 6.0, 10.0], 2) == pytest.approx(7.0)  # a constant score chooses by lot


def test_samples_without_a_value_can_be_chosen_and_do_not_count() -> None:
    assert best_of_n([1.0, 2.0], [4.0, None], 2) is None
    assert best_of_n([1.0, 2.0], [4.0, None], 1) == 4.0
    assert best_of_n([1.0, 2.0, 2.0], [4.0, None, 8.0], 3) == 8.0


def test_votes_are_over_all_subsets_or_over_random_ones_not_over_the_first() -> None:
    forms, correct = ["a", "b", "b", None, "a", "c"], [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]

    def value(places: tuple[int, ...] | list[int]) -> float:
        winner = majority([forms[p] for p in places])
        return 0.0 if winner is None else correct[places[winner]]

    for n in (1, 3, 6):
        assert over_subsets(6, n, value, "x") == pytest.approx(majority_at_k(forms, correct, n, "x"))
    seen: set[int] = set()
    over_subsets(40, 4, lambda places: seen.update(places) or 0.0, "x")  # type: ignore[func-returns-value]
    assert len(seen) == 40
    again: list[tuple[int, ...]] = []
    over_subsets(40, 4, lambda places: again.append(tuple(places)) or 0.0, "x")  # type: ignore[func-returns-value]
    assert len(again) == 200 and all(len(set(places)) == 4 for places in again)
    assert over_subsets(3, 2, lambda places: None) is None


def test_the_bound_and_the_steps() -> None:
    assert kl_bound(1) == 0 and kl_bound(4) == pytest.approx(math.log(4) - 0.75)
    assert kl_bound(16) == pytest.approx(1.8350887, abs=1e-6)
    assert [steps_to(n) for n in (1, 2, 4, 6, 16)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 6], [1, 2, 4, 8, 16]]


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="n=3 of 2 scores"):
        best_of_n([1.0, 2.0], [1.0, 2.0], 3)
    with pytest.raises(ValueError, match="of 2 scores and 1 values"):
        best_of_n([1.0, 2.0], [1.0], 1)
    with pytest.raises(ValueError, match="a score is NaN"):
        best_of_n([1.0, math.nan], [1.0, 2.0], 1)
    with pytest.raises(ValueError, match="n=0"):
        kl_bound(0)
    with pytest.raises(ValueError, match="n=4 of 3 samples"):
        over_subsets(3, 4, lambda places: 0.0)
