"""pass@k, maj@k, means: the vectors of the papers, brute force, and intervals of few items."""

import itertools
import math

import pytest

from fulgurite.evaluation.runner.statistics import majority, majority_at_k, mean_of, pass_at_k


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (10, 3, 5, 0.916667),
        (200, 1, 100, 0.5),
        (100, 2, 10, 0.190909),
        (5, 0, 5, 0.0),
        (20, 19, 2, 1.0),
        (1, 1, 1, 1.0),
    ],
)
def test_pass_at_k(n: int, c: int, k: int, expected: float) -> None:
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-6)
    assert pass_at_k(n, c, k) == pytest.approx(1 - math.comb(n - c, k) / math.comb(n, k), abs=1e-12)


def test_pass_at_k_is_what_all_subsets_give() -> None:
    for c, k in itertools.product(range(7), range(1, 7)):
        marks = [1] * c + [0] * (6 - c)
        subsets = [any(chosen) for chosen in itertools.combinations(marks, k)]
        assert pass_at_k(6, c, k) == pytest.approx(sum(subsets) / len(subsets))


@pytest.mark.parametrize(("n", "c", "k"), [(3, 1, 4), (3, 4, 1), (3, -1, 1), (3, 1, 0)])
def test_pass_at_k_refuses(n: int, c: int, k: int) -> None:
    with pytest.raises(ValueError, match="needed is"):
        pass_at_k(n, c, k)


def test_majority() -> None:
    assert majority(["1", "2", "2"]) == 1
    assert majority(["1", "2"]) == 0, "ties go to the answer that came first"
    assert majority([None, None, "3"]) == 2, "what could not be read is no answer"
    assert majority([None, None]) is None


def test_majority_at_k() -> None:
    groups, correct = ["2", "2", "7", None, None, None], [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert majority_at_k(groups, correct, 6) == 1.0
    assert majority_at_k([None], [0.0], 1) == 0.0
    exact = [
        0.0 if (winner := majority([groups[i] for i in chosen])) is None else correct[chosen[winner]]
        for chosen in itertools.combinations(range(6), 3)
    ]
    assert majority_at_k(groups, correct, 3, "key") == pytest.approx(sum(exact) / len(exact))
    # 20 samples have 15504 subsets of 5: 200 random ones, the same each time. Twelve say 2, which is right, eight say 7.
    many, right = ["2"] * 12 + ["7"] * 8, [1.0] * 12 + [0.0] * 8
    true = sum(math.comb(12, twos) * math.comb(8, 5 - twos) for twos in (3, 4, 5)) / math.comb(20, 5)
    assert majority_at_k(many, right, 5, "key") == pytest.approx(true, abs=0.1)
    assert majority_at_k(many, right, 5, "key") == majority_at_k(many, right, 5, "key")


def test_means() -> None:
    found = mean_of([1.0, 0.0, 1.0, 1.0])
    assert (found.value, found.items) == (0.75, 4)
    assert found.error == pytest.approx(0.25)  # sd 0.5 over √4
    assert (found.low, found.high) == (pytest.approx(0.30064, abs=1e-4), pytest.approx(0.95441, abs=1e-4))  # Wilson
    none = mean_of([0.0] * 8)
    assert (none.value, none.error, none.low) == (0.0, 0.0, 0.0)
    assert none.high == pytest.approx(0.3244, abs=1e-3), "no right answer of eight does not show that the rate is 0"
    assert mean_of([1.0]).error is None
    shares = mean_of([0.25, 0.75, 0.5])
    assert shares.high - shares.value == pytest.approx(1.959964 * shares.error)  # type: ignore[operator]
    with pytest.raises(ValueError, match="no value"):
        mean_of([])


def test_the_error_of_humaneval() -> None:
    """66 % of 164 tasks: ± 3.7 points."""
    assert mean_of([1.0] * 108 + [0.0] * 56).error == pytest.approx(0.037, abs=5e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_an_interval_holds_its_mean(value: float) -> None:
    """Rounding put the end of the interval of twelve zeros above 0, which the picture of the results refused."""
    for count in range(1, 400):
        found = mean_of([value] * count)
        assert 0.0 <= found.low <= found.value <= found.high <= 1.0, count
