"""The study of rewards: its curves equal enumeration, intervals are paired, over-optimisation and odd answers are said."""

from __future__ import annotations

import itertools
import random

import pytest

from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.runner.statistics import majority
from fulgurite.evaluation.selection.candidates import Candidates
from fulgurite.evaluation.selection.intervals import Bootstrap
from fulgurite.evaluation.selection.rules import weighted
from fulgurite.evaluation.selection.study import Study, study_of

PROMPT = (Turn("user", "How many?"),)
TARGET = "7"


def made(count: int = 6, samples: int = 4, seed: int = 0) -> tuple[list[Candidates], list[list[float | None]]]:
    """Candidates with forms, verdicts and lengths, and rewards with ties and gaps."""
    draw = random.Random(seed)
    candidates, rewards = [], []
    for number in range(count):
        forms = tuple(draw.choice(["7", "7", "8", None]) for _ in range(samples))
        candidates.append(
            Candidates(
                f"q{number}",
                PROMPT,
                tuple(f"q{number} answer {i}: {form}" for i, form in enumerate(forms)),
                ("stop",) * samples,
                tuple(draw.randint(3, 30) for _ in range(samples)),
                [float(form == TARGET) for form in forms],
                forms,
            )
        )
        rewards.append([draw.choice([None, -1.0, 0.5, 0.5, 2.0]) for _ in range(samples)])
    return candidates, rewards


def mean_over(study: Study, value) -> list[float]:  # type: ignore[no-untyped-def]
    """The mean over prompts and all subsets, for each n; value of a prompt's number and the places of a subset."""
    found = []
    for n in study.steps:
        subsets = list(itertools.combinations(range(study.samples), n))
        found.append(sum(sum(value(i, s) for s in subsets) / len(subsets) for i in range(6)) / 6)
    return found


def test_every_rule_equals_enumeration_over_all_subsets() -> None:
    candidates, rewards = made()
    study = study_of(candidates, rewards)
    assert (study.samples, study.steps, len(study.prompts)) == (4, [1, 2, 4], 6)

    def by_votes(choose):  # type: ignore[no-untyped-def]
        def value(i: int, places: tuple[int, ...]) -> float:
            winner = choose(i, places)
            return 0.0 if winner is None else (candidates[i].correct[places[winner]] or 0.0)

        return value

    def chosen(i: int, places: tuple[int, ...]) -> float:
        ranks = [-1e9 if rewards[i][p] is None else rewards[i][p] for p in places]
        tied = [p for p, rank in zip(places, ranks, strict=True) if rank == max(ranks)]
        return sum(candidates[i].correct[p] or 0.0 for p in tied) / len(tied)

    expected = {
        "one sample": lambda i, places: sum(candidates[i].correct[p] or 0.0 for p in places) / len(places),
        "best": chosen,
        "majority": by_votes(lambda i, places: majority([candidates[i].forms[p] for p in places])),
        "weighted": by_votes(
            lambda i, places: weighted([rewards[i][p] for p in places], [candidates[i].forms[p] for p in places])
        ),
        "oracle": lambda i, places: max(candidates[i].correct[p] or 0.0 for p in places),
    }
    for rule, value in expected.items():
        curve = study.curve("right", rule)
        assert curve is not None
        assert [point.value for point in curve.points] == pytest.approx(mean_over(study, value), abs=1e-12), rule
        assert all(p.low is not None and p.low <= p.value <= (p.high or 0) for p in curve.points)
    assert study.curve("tokens", "best") is not None and study.curve("judge", "best") is None


def test_differences_are_paired_and_the_record_is_plain_data() -> None:
    candidates, rewards = made(12)
    study = study_of(candidates, rewards, [[1.0] * 4] * 12)
    lead = study.leads["right"]["best − one sample"]
    best, one = study.curve("right", "best"), study.curve("right", "one sample")
    assert best is not None and one is not None
    assert lead.value == pytest.approx(best.points[-1].value - one.points[-1].value)
    # Where no prompt shows a difference the bootstrap cannot say how small it is.
    same = study.leads["judge"]["best − one sample"]
    assert (same.value, same.low, same.high) == (0.0, None, None)
    record = study.to_dict()
    assert record["n"] == [1, 2, 4] and record["curves"]["right"]["best"][0].keys() == {"value", "low", "high"}
    assert set(record["curves"]) == {"right", "judge", "reward", "tokens"}
    assert study_of(candidates, rewards, seed=0).to_dict() == study_of(candidates, rewards, seed=0).to_dict()


def test_a_reward_that_is_over_optimised_is_said() -> None:
    """The judge likes middling rewards: the best of 2 and 4 beats the best of 8."""
    samples = 8
    candidates = [Candidates(f"q{i}", PROMPT, tuple(f"{i} {j}" for j in range(samples))) for i in range(20)]
    rewards = [[float(j) for j in range(samples)] for _ in candidates]
    judged = [[-((j - 5) ** 2) * (1 + i / 50) for j in range(samples)] for i in range(20)]
    study = study_of(candidates, rewards, judged)  # type: ignore[arg-type]
    highest, fall = study.falls["judge"]
    assert highest == 4 and fall.high is not None and fall.high < 0
    assert any("over-optimised: by the measure judge the best of 4" in text for text in study.warnings)
    agreeing = study_of(candidates, rewards, rewards)  # type: ignore[arg-type]
    assert agreeing.falls["judge"] == (8, agreeing.falls["judge"][1]) and not agreeing.warnings
    assert agreeing.pair_accuracy == {"judge": 1.0}


def test_a_reward_that_follows_length_is_shown() -> None:
    lengths = ((3, 9, 6), (20, 26, 23))
    candidates = [Candidates(str(i), PROMPT, ("a", "b", "c"), lengths=own) for i, own in enumerate(lengths)]
    study = study_of(candidates, [[1.0, 3.0, 2.0], [-7.0, -5.0, -6.0]])
    assert study.length_correlation["within prompts"] == pytest.approx(1.0)
    assert study.length_correlation["all answers"] < 0  # the longer prompt's answers have lower rewards
    curve = study.curve("tokens", "best")
    assert curve is not None and curve.points[-1].value == pytest.approx((9 + 26) / 2)


def test_odd_answers_are_counted_and_said() -> None:
    texts = ("a", "b", " ", "d")
    candidates = [Candidates(str(i), PROMPT, texts, ("length", "stop", "stop", "length")) for i in range(3)]
    short = Candidates("short", PROMPT, ("a",), ("stop",))
    study = study_of([*candidates, short], [[1.0, 2.0, None, 0.0], [1.0, 1.0, None, 1.0], [1.0, 2.0, None, 3.0], [5.0]])
    assert study.prompts == ["0", "1", "2"]
    assert study.counts == {
        "answers": 12, "empty": 3, "cut off": 6, "prompts left out": 1, "without a reward": 3,
        "prompts whose rewards are all equal": 0,
    }  # fmt: skip
    said = " ".join(study.warnings)
    assert "1 of 4 prompts have fewer than 4 answers" in said and "6 of 12 answers are cut off" in said


def test_rewards_that_choose_nothing_are_refused() -> None:
    candidates, rewards = made()
    with pytest.raises(ValueError, match=r"all 24 different answers have the reward 0\.5; a constant reward"):
        study_of(candidates, [[0.5] * 4] * 6)
    with pytest.raises(ValueError, match="not one answer has a reward"):
        study_of(candidates, [[None] * 4] * 6)
    with pytest.raises(ValueError, match="the rewards are 23 of 6 prompts for 24 answers"):
        study_of(candidates, [*rewards[:5], rewards[5][:3]])
    with pytest.raises(ValueError, match="no prompt has two answers"):
        study_of([Candidates("a", PROMPT, ("x",))], [[1.0]])
    with pytest.raises(ValueError, match="no rewards, no checker and no judge"):
        study_of([Candidates("a", PROMPT, ("x", "y"))], None)
    with pytest.raises(ValueError, match="3 values of correct for 2 answers"):
        Candidates("a", PROMPT, ("x", "y"), correct=[1.0, 0.0, 1.0])
    # Of three prompts without a right answer the share of right answers is 0, and not known to be 0.
    wrong = [Candidates(str(i), PROMPT, (f"{i}a", f"{i}b"), correct=[0.0, 0.0]) for i in range(3)]
    assert (
        study_of(wrong, [own.correct for own in wrong]).curve("right", "best") is not None
    )  # nothing right is no defect


def test_one_prompt_has_no_interval_and_bootstrap_covers() -> None:
    (own, *_), (rewards, *_) = made(1)
    point = study_of([own], [rewards or [1.0, 2.0, 3.0, 4.0]]).curves[0].points[0]
    assert point.low is None and point.high is None
    import numpy as np

    values = np.random.default_rng(0).normal(size=400)
    estimate = Bootstrap(400, 1).estimate(values)
    half = 1.96 * values.std(ddof=1) / 20
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.015)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.015)
