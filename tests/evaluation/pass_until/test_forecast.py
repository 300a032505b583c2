"""The forecast: bounds before the first batch, a range after the pilot that holds what it really takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.pass_until.drawing import draw_until
from fulgurite.evaluation.pass_until.forecast import forecast_of
from fulgurite.evaluation.pass_until.stopping import ItemDraws, Until, stop_of
from tests.evaluation.pass_until.test_drawing import planned, rule
from tests.evaluation.runner.fakes import FakeBackend


@pytest.mark.parametrize(("of", "bounds"), [("instance", (9, 3000)), ("task", (3, 1000))])
def test_before_the_first_batch_there_are_bounds_only(of, bounds):
    until = Until(3, 1000, of)
    draws = {key: ItemDraws(key) for key in "abc"}
    found = forecast_of(stop_of(until, list(draws), "t", 0), draws, 20)
    assert (found.least, found.most) == bounds and found.likely is None and found.per_second is None
    told = found.told("t", until, 3)
    assert f"{bounds[0]:,} to {bounds[1]:,} draws, at most {bounds[1] * 20:,} tokens" in told
    assert told.endswith("the time is told after the first round")


def test_time_and_tokens_go_by_what_was_measured():
    until = Until(2, 1000)
    draws = {"a": ItemDraws("a", 64, [3], tokens=640), "b": ItemDraws("b", 64, [3, 9], tokens=640)}
    found = forecast_of(stop_of(until, ["a", "b"], "t", 0), draws, 20, new=128, seconds=4.0)
    assert (found.least, found.most, found.tokens, found.per_second) == (1, 936, 10.0, 32.0)
    assert found.likely is not None and 20 < found.likely < 60, (
        "the rate is about 1.5 in 65, the middle ln 2 of its inverse"
    )
    told = found.told("t", until, 2)
    assert f"further draws than the 128 that are there; by the rates so far about {found.likely:.0f} (" in told
    assert f"{found.likely * 10:.0f} tokens of answers, 1 s" in told and "at most 29 s) at 32.0 draws a second" in told
    done = {"a": ItemDraws("a", 64, [3, 4]), "b": ItemDraws("b", 1000, [3])}
    assert forecast_of(stop_of(until, ["a", "b"], "t", 0), done, 20).told("t", until, 2) == ""


@pytest.mark.parametrize("of", ["instance", "task"])
def test_the_range_after_the_pilot_holds_what_it_takes(of):
    """Half of the instances never pass, the others scatter over two decades: nothing that the forecast knows."""
    until, inside = Until(3, 5000, of), []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        rates = np.where(rng.random(12) < 0.5, 0.0, 10 ** rng.uniform(-2.5, -0.5, 12))
        keys = [str(place) for place in range(12)]
        stop, draws = stop_of(until, keys, "t", seed), {key: ItemDraws(key) for key in keys}
        found = None
        while wanted := stop.wanted(draws, {}):
            for key, start, count in wanted:
                draws[key].drawn += count
                draws[key].passed += (np.flatnonzero(rng.random(count) < rates[int(key)]) + start).tolist()
            if found is None:
                pilot = stop.task(draws)
                before = sum(each.drawn for each in draws.values()) if pilot is None else pilot.n
                found = forecast_of(stop, draws, 20)
        task = stop.task(draws)
        taken = sum(each.counts(until)[0] for each in draws.values()) if task is None else task.n
        assert found is not None and found.low is not None and found.high is not None
        assert found.least <= found.low <= found.likely <= found.high <= found.most
        # Draws behind an instance's r-th pass in the pilot are made already.
        over = 0 if task is not None else sum(max(0, 64 - each.counts(until)[0]) for each in draws.values())
        inside.append(found.low <= max(0, taken + over - before) <= found.high)
    assert np.mean(inside) >= 0.93


def test_it_is_told_before_and_after_the_first_round(tmp_path: Path):
    told: list[str] = []
    draw_until(planned(tmp_path), FakeBackend(rule), Until(3, 2000), How(), silent=True, tell=told.append)
    assert len(told) == 2 and "15 to 10,000 draws" in told[0] and "draws a second" in told[1]
    told.clear()
    draw_until(planned(tmp_path), FakeBackend(rule), Until(3, 2000), How(), silent=True, tell=told.append)
    assert told == [], "nothing is left to draw"
