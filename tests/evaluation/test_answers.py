"""Exact match, token F1 and ROUGE-L against published and hand-counted values."""

from __future__ import annotations

import pytest

from fulgurite.evaluation import exact_match, rouge_l, token_f1


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        # Lin (2004), section 3.1: L = 3, 2, 2 of 4 tokens.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("the gunman police killed", "police killed the gunman", 0.5),
        # The example in the README of rouge_score: P = 5/8, R = 5/9.
        (
            "The quick brown dog jumps on the log.",
            "The quick brown fox jumps over the lazy dog",
            0.5882352941176471,
        ),
        ("", "anything", 0.0),
        ("Москва!", "в москва", 2 / 3),
    ],
)
def test_rouge_l(answer, reference, expected):
    assert rouge_l(answer, [reference]) == pytest.approx(expected)
    assert rouge_l(answer, ["nothing of it", reference]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("answer", "references", "f1", "exact"),
    [
        ("The Eiffel Tower.", ["eiffel tower"], 1.0, 1.0),
        ("in the year 1889", ["1889"], 0.5, 0.0),  # P = 1/3, R = 1
        ("b b a", ["b c"], 0.5, 0.0),  # the article leaves; P = 1/2, R = 1/2: a token counts as often as both have it
        ("fourteen", ["14", "fourteen"], 1.0, 1.0),
        ("the", ["a"], 1.0, 1.0),  # nothing is left of either
        ("x", ["the"], 0.0, 0.0),
    ],
)
def test_token_f1_and_exact_match(answer, references, f1, exact):
    assert token_f1(answer, references) == pytest.approx(f1)
    assert exact_match(answer, references) == exact
