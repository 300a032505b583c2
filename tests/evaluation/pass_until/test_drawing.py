"""Draws until r passes: their numbers count and not who finishes first, batches grow, a stopped run goes on."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.judging.verdicts import How, TextJudge, Verdict
from fulgurite.evaluation.pass_until.drawing import Drawn, draw_until
from fulgurite.evaluation.pass_until.stopping import ItemDraws, Until, expected_rest
from fulgurite.evaluation.runner.plan import Plan
from fulgurite.evaluation.runner.record_file import IdentityError
from fulgurite.generation.protocol import Prompt, Request, Sample, SamplingSettings
from tests.evaluation.runner.fakes import CHOICES, SUMS, FakeBackend, plan_of

DRAWN = SamplingSettings(temperature=1.0)
RATES = {0: 0.5, 1: 0.05, 2: 0.004, 3: 0.0, 4: 1.0}


def rule(prompt: str, index: int) -> str:
    """Right with each item's rate, the same for the same number of a draw."""
    number = int(prompt.split()[2])
    right = random.Random(f"{number} {index}").random() < RATES[number]
    return f"That is {2 * number if right else 2 * number + 1 + index % 3}."


def truth(item: int, passes: int, cap: int) -> tuple[int, int, bool]:
    found = [i for i in range(cap) if random.Random(f"{item} {i}").random() < RATES[item]]
    return (found[passes - 1] + 1, passes, True) if len(found) >= passes else (cap, len(found), False)


class Shuffled(FakeBackend):
    """Finishes answers in another order: right ones first."""

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        yield from sorted(
            super().sample(requests, n, settings), key=lambda sample: (sample.prompt, len(sample.text), -sample.index)
        )


def planned(folder: Path, **options: Any) -> Plan:
    return plan_of(folder, settings=DRAWN, **options)


def counts(drawn: Drawn) -> list[tuple[int, int, bool]]:
    return [item.counts(drawn.until) for item in drawn.items]


@pytest.mark.parametrize("backend", [FakeBackend, Shuffled])
def test_the_number_of_the_rth_pass_counts(tmp_path: Path, backend: type[FakeBackend]) -> None:
    until = Until(3, 2000)
    drawn = draw_until(planned(tmp_path), backend(rule), until, How(), silent=True)
    assert counts(drawn) == [truth(item, 3, 2000) for item in range(5)]
    assert drawn.states() == {"resolved": 4, "censored": 1, "open": 0} and not drawn.troubles
    records = [json.loads(line) for line in (tmp_path / "draws.jsonl").read_text().splitlines()[1:]]
    sizes = {item: [r["count"] for r in records if r["item"] == item] for item in "03"}
    assert sizes == {"0": [64], "3": [64, 64, 128, 256, 512, 976]}, "batches double until the cap"
    assert drawn.new == sum(r["count"] for r in records)


def test_a_run_that_is_stopped_anywhere_goes_on_to_the_same_counts(tmp_path: Path) -> None:
    whole = draw_until(planned(tmp_path / "whole"), FakeBackend(rule), Until(3, 1000), How(), silent=True)

    class Stopped(FakeBackend):
        def sample(self, *given: Any, **more: Any) -> Iterator[Sample]:
            for count, sample in enumerate(super().sample(*given, **more)):
                if count == 150:
                    raise KeyboardInterrupt
                yield sample

    asked: list[tuple[str, int]] = []
    for _ in range(100):
        backend = Stopped(rule)
        try:
            part = draw_until(planned(tmp_path / "part"), backend, Until(3, 1000), How(), silent=True)
        except KeyboardInterrupt:
            with (tmp_path / "part" / "draws.jsonl").open("a") as file:
                file.write('{"item": "0", "sta')  # torn by a kill
            asked += backend.asked
            continue
        break
    else:
        # A batch of more than 150 draws never ends with this backend: the rest is drawn in one go.
        part = draw_until(planned(tmp_path / "part"), FakeBackend(rule), Until(3, 1000), How(), silent=True)
    assert counts(part) == counts(whole) and len(asked) > 150


def test_more_passes_or_a_higher_cap_go_on_where_it_ended(tmp_path: Path) -> None:
    first = draw_until(planned(tmp_path), FakeBackend(rule), Until(2, 100), How(), silent=True)
    assert counts(first) == [truth(item, 2, 100) for item in range(5)]
    backend = FakeBackend(rule)
    more = draw_until(planned(tmp_path), backend, Until(4, 3000), How(), silent=True)
    assert counts(more) == [truth(item, 4, 3000) for item in range(5)]
    assert min(index for prompt, index in backend.asked if "3 + 3" in prompt) == 100, "the first hundred stand there"
    again = FakeBackend(rule)
    assert counts(draw_until(planned(tmp_path), again, Until(4, 3000), How(), silent=True)) == counts(more)
    assert again.asked == []
    # Fewer passes and a lower cap are answered from what is there.
    less = draw_until(planned(tmp_path), again, Until(2, 50), How(), silent=True)
    assert counts(less) == [truth(item, 2, 50) for item in range(5)] and again.asked == []


def test_an_answer_is_judged_once_and_a_cut_one_never_passes(tmp_path: Path) -> None:
    seen: list[tuple[str, Any]] = []

    def same(answer: str, target: Any) -> bool:
        seen.append((answer, target))
        return answer == target

    task = replace(SUMS, judge=TextJudge(same, str))
    draw_until(planned(tmp_path / "a", task=task, items=4), FakeBackend(rule), Until(2, 500), How(), silent=True)
    assert len(seen) == len(set(seen)) <= 16
    cut = draw_until(
        planned(tmp_path / "b", items=1), FakeBackend(rule, finish="length"), Until(2, 100), How(), silent=True
    )
    assert counts(cut) == [(100, 0, False)] and cut.items[0].truncated == 100


def test_troubles_leave_an_item_open_and_the_next_run_asks_again(tmp_path: Path) -> None:
    drawn = draw_until(planned(tmp_path), FakeBackend(rule, failing=[70]), Until(3, 300), How(), silent=True)
    assert drawn.states()["open"] == 1
    assert drawn.troubles == ["1: 1 of 64 answers could not be had: the server said 500"]
    drawn = draw_until(planned(tmp_path), FakeBackend(rule), Until(3, 300), How(), silent=True)
    assert counts(drawn) == [truth(item, 3, 300) for item in range(5)] and not drawn.troubles


class Broken:
    metric = "accuracy"

    def identity(self, how: How) -> dict[str, Any]:
        return {}

    def check(self, how: How) -> None: ...

    def judge(self, pairs: Sequence[tuple[Any, str]], done: Any, how: How) -> None:
        for number, _ in enumerate(pairs):
            done(number, Verdict(None, "sandbox", "no namespaces"))


def test_a_broken_judge_decides_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path, task=replace(SUMS, judge=Broken()), items=2)
    drawn = draw_until(plan, FakeBackend(rule), Until(2, 300), How(), silent=True)
    assert drawn.states() == {"resolved": 0, "censored": 0, "open": 2} and "no namespaces" in drawn.troubles[0]
    assert len((tmp_path / "draws.jsonl").read_text().splitlines()) == 1


def test_draws_of_something_else_are_refused(tmp_path: Path) -> None:
    draw_until(planned(tmp_path), FakeBackend(rule), Until(2, 64), How(), silent=True)
    with pytest.raises(IdentityError, match='model: "fake" there, "other" now'):
        draw_until(planned(tmp_path), FakeBackend(rule, "other"), Until(2, 64), How(), silent=True)
    lines = (tmp_path / "draws.jsonl").read_text().splitlines()
    (tmp_path / "draws.jsonl").write_text(
        "\n".join(lines[:1] + lines[1:3] + [lines[3].replace('"start": 0', '"start": 64')]) + "\n"
    )
    with pytest.raises(ValueError, match="draws 0 to 63 are missing"):
        draw_until(planned(tmp_path), FakeBackend(rule), Until(2, 64), How(), silent=True)


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda path: Until(1), "until_passes=1; give 2 or more"),
        (lambda path: Until(5, 4), "cap=4 with until_passes=5"),
        (
            lambda path: draw_until(plan_of(path), FakeBackend(), Until(2), How()),
            "temperature 0 every draw is the same",
        ),
        (lambda path: draw_until(planned(path, task=CHOICES), FakeBackend(), Until(2), How()), "guessing passes too"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, act: Any, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        act(tmp_path)


def test_the_forecast_counts_the_cap() -> None:
    until = Until(2, 1000)
    done, poor, near = ItemDraws("a", 64, [3, 9]), ItemDraws("b", 64), ItemDraws("c", 999, [5])
    assert expected_rest([done], until) == 0
    assert expected_rest([poor], until) == pytest.approx(2 / (0.5 / 65))
    assert expected_rest([poor, near], Until(2, 100)) == 36 and expected_rest([near], until) == 1
