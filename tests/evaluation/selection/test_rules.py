"""Rules of choice: ties, answers without a score or a form, and weights that no constant changes."""

from __future__ import annotations

import pytest
import torch

from fulgurite.evaluation.selection import select_answers
from fulgurite.evaluation.selection.rules import best, weighted


def test_the_best_answer_of_each_question_is_taken() -> None:
    answers = [["a", "b", "c"], ["d", "e", "f"]]
    assert select_answers(answers, torch.tensor([[1.0, -2.0, 0.0], [0.0, -1.0, 0.0]])) == ["a", "e", "c"]
    with pytest.raises(ValueError, match=r"scores are \(3, 2\) for 2 models with 3 answers"):
        select_answers(answers, torch.zeros(3, 2))


def test_the_best_is_the_first_of_the_highest_and_none_without_a_score() -> None:
    assert best([0.5, 2.0, 2.0, None]) == 1
    assert best([None, -3.0]) == 1
    assert best([None, None]) is None and best([]) is None


def test_weighted_votes_lie_between_the_best_and_the_majority() -> None:
    scores, forms = [2.0, 1.4, 1.3, 0.2], ["7", "8", "8", "9"]
    assert weighted(scores, forms, tau=0.1) == 0  # e⁰ against e⁻⁶ + e⁻⁷
    assert weighted(scores, forms, tau=1.0) == 1  # 1 against e⁻⁰·⁶ + e⁻⁰·⁷ = 1.05
    assert weighted(scores, forms, tau=1e6) == 1


def test_a_constant_added_to_all_rewards_changes_no_choice() -> None:
    scores, forms = [2.0, 1.4, 1.3, 0.2], ["7", "8", "8", "9"]
    sums = {form: sum(s for s, f in zip(scores, forms, strict=True) if f == form) for form in forms}
    shifted = {form: sum(s - 10 for s, f in zip(scores, forms, strict=True) if f == form) for form in forms}
    assert max(sums, key=sums.__getitem__) != max(shifted, key=shifted.__getitem__)  # sums of raw rewards do
    for constant in (-1000.0, -10.0, 10.0, 1000.0):
        assert weighted([s + constant for s in scores], forms) == weighted(scores, forms) == 1


def test_what_holds_no_answer_has_no_vote_and_ties_are_decided() -> None:
    assert weighted([9.0, 1.0, 8.0], [None, "4", None]) == 1
    assert weighted([9.0, None], [None, "4"]) is None
    assert weighted([1.0, 1.0], ["4", "5"]) == 0  # equal sums and highest scores: the first
    assert weighted([0.0, 0.0, 0.0, 0.0], ["4", "5", "5", "4"]) == 0
    # Equal sums, e^ln2 = 1 + 1, of which the form with the highest score wins, wherever it stands.
    assert weighted([0.0, 0.0, 0.6931471805599453], ["4", "4", "5"]) == 2
    assert weighted([1.0, 3.0, 2.0], ["4", "4", "5"]) == 1  # within the winning form the highest score
    with pytest.raises(ValueError, match="tau=0"):
        weighted([1.0], ["4"], tau=0)
