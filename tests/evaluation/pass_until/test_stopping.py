"""Until r passes of the task: an order fixed beforehand, no bias, an interval that covers, fewer draws than a fixed number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies.pass_rates.passuntil import replay_task, replayed
from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.pass_until.drawing import draw_until
from fulgurite.evaluation.pass_until.estimators import interval, unbiased, variance
from fulgurite.evaluation.pass_until.stopping import ItemDraws, Until, WholeTask
from tests.evaluation.pass_until.test_drawing import RATES, Shuffled, planned, rule
from tests.evaluation.runner.fakes import FakeBackend

KEYS = ["a", "b", "c", "d"]


def of_task(passes: int, cap: int = 100_000) -> Until:
    return Until(passes, cap, "task")


def filled(drawn: Sequence[int], passed: Sequence[Sequence[int]]) -> dict[str, ItemDraws]:
    return {key: ItemDraws(key, n, list(c)) for key, n, c in zip(KEYS, drawn, passed, strict=True)}


def test_the_order_is_fixed_by_name_and_seed_and_goes_to_all_alike() -> None:
    def order(name: str, seed: int) -> list[str]:
        stop = WholeTask(of_task(2, 4000), KEYS, name, seed)
        stop.wanted(filled([0] * 4, [[]] * 4), {})
        stop.task(filled([5000] * 4, [[]] * 4))
        return sorted((place, key) for key, turns in stop._turns.items() for place in turns)  # type: ignore[return-value]

    first = order("t", 0)
    assert first == order("t", 0) and first != order("t", 1) and first != order("u", 0)
    assert [place for place, _ in first] == list(range(4000))
    shares = [sum(key == own for _, own in first) for key in KEYS]
    assert sum((share - 1000) ** 2 / 1000 for share in shares) < 11.3, "χ² with 3 degrees of freedom, 1 %"


def test_what_counts_is_the_place_in_the_order() -> None:
    stop = WholeTask(of_task(3), KEYS, "t", 0)
    stop._know(40)
    turns = stop._turns
    made = filled([30] * 4, [[0], [], [0, 1], [2]])
    places = sorted([turns["a"][0], turns["c"][0], turns["c"][1], turns["d"][2]])
    found = stop.task(made)
    assert (found.n, found.c, found.reached, found.passed) == (places[2] + 1, 3, True, tuple(places[:3]))
    assert sum(n for n, _ in found.items.values()) == found.n and sum(c for _, c in found.items.values()) == 3
    # A gap ends what counts: passes that stand behind it may not be the r-th.
    gap = stop.task({**made, "b": ItemDraws("b", 0)})
    assert gap.n == turns["b"][0] and gap.open and gap.c == sum(place < gap.n for place in places)


def task_truth(passes: int, cap: int, answers: Any, keys: Sequence[str]) -> tuple[int, int, bool]:
    """By walking along the order."""
    stop = WholeTask(of_task(passes, cap), keys, "sums", 0)
    stop._know(cap)
    order = sorted(
        (place, int(key), number) for key, turns in stop._turns.items() for number, place in enumerate(turns)
    )
    c = 0
    for place, item, number in order:
        c += answers(item, number)
        if c == passes:
            return place + 1, c, True
    return cap, c, False


def right(item: int, number: int) -> bool:
    return rule(f"What is {item} + {item}?", number) == f"That is {2 * item}."


@pytest.mark.parametrize("backend", [FakeBackend, Shuffled])
@pytest.mark.parametrize(("passes", "cap"), [(11, 100_000), (400, 1000)])
def test_draws_end_with_the_rth_pass_of_the_task(
    tmp_path: Path, backend: type[FakeBackend], passes: int, cap: int
) -> None:
    until = of_task(passes, cap)
    asked = backend(rule)
    drawn = draw_until(planned(tmp_path), asked, until, How(), silent=True)
    found = drawn.task()
    assert found is not None
    assert (found.n, found.c, found.reached) == task_truth(passes, cap, right, list("01234"))
    assert drawn.states() == {"resolved": int(found.reached), "censored": int(not found.reached), "open": 0}
    assert len(asked.asked) == drawn.new == sum(each.drawn for each in drawn.items) < 2 * found.n + 64


def test_a_run_stopped_at_any_batch_goes_on_to_the_same_count(tmp_path: Path) -> None:
    until = of_task(60)
    whole = draw_until(planned(tmp_path / "whole"), FakeBackend(rule), until, How(), silent=True)
    lines = (tmp_path / "whole" / "draws.jsonl").read_text().splitlines(keepends=True)
    for kept in range(1, len(lines)):
        (tmp_path / f"{kept}").mkdir()
        (tmp_path / f"{kept}" / "draws.jsonl").write_text("".join(lines[:kept]) + '{"item": "0", "sta')
        part = draw_until(planned(tmp_path / f"{kept}"), Shuffled(rule), until, How(), silent=True)
        assert part.task() == whole.task()


def test_both_rules_take_the_same_draws(tmp_path: Path) -> None:
    backend = FakeBackend(rule)
    draw_until(planned(tmp_path), backend, Until(3, 400), How(), silent=True)
    before = len(backend.asked)
    drawn = draw_until(planned(tmp_path), backend, of_task(40), How(), silent=True)
    assert (
        drawn.task() == draw_until(planned(tmp_path / "b"), FakeBackend(rule), of_task(40), How(), silent=True).task()
    )
    assert len(backend.asked) == len(set(backend.asked)), "no draw twice"
    assert len(backend.asked) - before < drawn.task().n  # type: ignore[union-attr]


def test_an_answer_that_could_not_be_had_leaves_the_task_open(tmp_path: Path) -> None:
    drawn = draw_until(planned(tmp_path), FakeBackend(rule, failing=[20]), of_task(100), How(), silent=True)
    assert drawn.states()["open"] == 1 and "could not be had" in drawn.troubles[0]
    again = draw_until(planned(tmp_path), FakeBackend(rule), of_task(100), How(), silent=True)
    assert again.states()["resolved"] == 1 and not again.troubles


RATE = np.array([0.3, 0.08, 0.02, 0.0, 0.0, 0.0, 0.0, 0.0])  # PU = 0.05


@pytest.mark.parametrize("cap", [100_000, 60])
def test_unbiased_and_its_interval_covers(cap: int) -> None:
    until, rng = of_task(5, cap), np.random.default_rng(0)
    counts = [replayed(until, RATE, rng, seed) for seed in range(1500)]
    n, c = np.array([(one.n, one.c) for one in counts]).T
    value, truth = unbiased(n, c, 5), RATE.mean()
    error = value.std() / np.sqrt(len(value))
    assert abs(value.mean() - truth) < 3 * error and error < 0.02 * truth
    assert variance(n, c, 5).mean() == pytest.approx(value.var(), rel=0.15)
    low, high = interval(n, c, 5)
    assert 0.935 <= ((low <= truth) & (truth <= high)).mean() <= 0.985
    peeking = np.where(c == 5, 5 / n, 0)
    assert abs(peeking.mean() / truth - 1) > 0.1, "the published estimate is biased here: the test can tell"


def test_the_task_needs_fewer_draws_than_a_fixed_number() -> None:
    """To a relative s.d. of 0.35 of each score of a series; every draw that the product makes is counted."""
    rng, goal = np.random.default_rng(1), 0.35
    rates = [mean * np.array([12.0, 5.0, 2.0, 1.0] + [0.0] * 16) for mean in (0.002, 0.004, 0.02, 0.05)]
    each = [np.ceil((p * (1 - p)).sum() / (goal * p.sum()) ** 2) for p in rates]
    fixed = max(each) * len(rates[0]) * len(rates)
    made = 0.0
    for p in rates:
        drawn = [replayed(of_task(11), p, rng, seed) for seed in range(150)]
        n = np.array([one.n for one in drawn])
        assert np.std(10 / (n - 1)) / p.mean() < goal + 3 * goal / np.sqrt(2 * len(n))
        made += float(np.mean([one.made for one in drawn]))
    assert made <= 0.6 * fixed


@pytest.mark.real_data
def test_on_the_pythia_counts_too(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figure of docs/passuntil.md at small size: at most 60 % of the draws that a fixed number needs."""
    monkeypatch.setenv("FULGURITE_REAL_DATA", str(real_data))
    found = replay_task(20)
    assert found["draws that count"] <= found["draws made"] <= 0.6 * found["draws made"] / found["of fixed, one n"]
    assert np.mean(found["relative s.d."]) < 0.35 + 3 * 0.35 / np.sqrt(2 * 20 * 9)
    assert np.mean(found["mean over truth"]) == pytest.approx(1, abs=3 * 0.35 / np.sqrt(20 * 9))


def test_only_instance_or_task() -> None:
    with pytest.raises(ValueError, match="until_passes_of='items'; allowed are instance, task"):
        replace(Until(2), of="items")  # type: ignore[arg-type]
    assert RATES[4] == 1.0
