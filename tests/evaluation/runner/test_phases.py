"""Both phases: resuming after kills, samples that cannot be had, other identities, judging again, broken judges."""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.judging.verdicts import How, Verdict
from fulgurite.evaluation.runner.record_file import IdentityError
from fulgurite.evaluation.runner.results import TaskResult, result_of
from fulgurite.evaluation.runner.sampling import collect
from fulgurite.evaluation.runner.scoring import rate
from fulgurite.generation.protocol import SamplingSettings
from tests.evaluation.runner.fakes import CHOICES, SUMS, FakeBackend, FakeScorer, plan_of
from tests.forking.killing import killed_at, size_of


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[1:-1]]


def finished(folder: Path, backend: Any = None, **options: Any) -> TaskResult:
    plan = plan_of(folder, **options)
    collect(plan, backend or FakeBackend(), silent=True)
    return result_of(plan, rate(plan, silent=True))


def test_a_run(tmp_path: Path) -> None:
    result = finished(tmp_path / "out", items=9)
    # 0, 3 are wrong (i % 3 == 0), 6 says nothing; the others are right
    assert result.numbers["accuracy"].value == pytest.approx(6 / 9)
    assert result.counts["right"] == 6 and result.counts["wrong"] == 2 and result.counts["empty"] == 1
    samples, scores = lines(tmp_path / "out" / "samples.jsonl"), lines(tmp_path / "out" / "scores.jsonl")
    assert len(samples) == len(scores) == 9
    score = next(score for score in scores if score["item"] == "2")
    assert samples[2]["text"] == "That is 4." and (score["answer"], score["correct"]) == ("4", 1.0)
    asked = [json.loads(line) for line in (tmp_path / "out" / "requests.jsonl").read_text().splitlines()]
    assert asked[2]["prompt"] == "What is 2 + 2?" and asked[2]["request"] == samples[2]["request"]


def test_several_samples(tmp_path: Path) -> None:
    result = finished(tmp_path / "out", items=6, n=3)
    # of three samples exactly two are right, and both say the same number
    assert result.numbers["accuracy"].value == pytest.approx(2 / 3)
    assert result.numbers["pass@1"].value == pytest.approx(2 / 3)
    assert result.numbers["pass@3"].value == 1.0 and result.numbers["maj@3"].value == 1.0


def test_cut_at_any_byte_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    expected = finished(whole, items=8, n=4)
    samples, scores = (whole / "samples.jsonl").read_bytes(), (whole / "scores.jsonl").read_bytes()
    draws = random.Random(1)
    for number in range(10):
        folder = tmp_path / str(number)
        folder.mkdir()
        if number % 2:  # killed while judging
            (folder / "samples.jsonl").write_bytes(samples)
            (folder / "scores.jsonl").write_bytes(scores[: draws.randrange(len(scores))])
        else:  # killed while generating
            (folder / "samples.jsonl").write_bytes(samples[: draws.randrange(len(samples))])
        backend = FakeBackend()
        result = finished(folder, backend, items=8, n=4)
        assert result.numbers == expected.numbers
        assert number % 2 == 0 or backend.asked == []
        key = lambda record: (record["item"], record["index"])  # noqa: E731
        for name in ("samples.jsonl", "scores.jsonl"):
            assert sorted(lines(folder / name), key=key) == sorted(lines(whole / name), key=key)


@pytest.mark.slow
def test_killed_at_twenty_moments(tmp_path: Path) -> None:
    killed_and_resumed(tmp_path, items=30, n=8)


def killed_and_resumed(place: Path, kills: int = 20, **options: int) -> None:
    """A process of its own gets kill -9 when its file has grown by a random number of bytes: three in five while it generates."""
    expected = finished(place / "whole", **options)
    folder = place / "killed"
    draws = random.Random(2)
    for number in range(kills):
        late = number >= kills * 3 // 5
        watched = folder / ("scores.jsonl" if late else "samples.jsonl")
        step = (place / "whole" / watched.name).stat().st_size // (kills * 3 // 5)
        target = size_of(watched) + draws.randrange(1, step)
        killed_at(lambda: finished(folder, FakeBackend(), **options), watched, target)
    assert len(lines(folder / "scores.jsonl")) < options["items"] * options["n"]
    result = finished(folder, **options)
    for name in ("samples.jsonl", "scores.jsonl"):
        found = [(record["item"], record["index"]) for record in lines(folder / name)]
        assert len(found) == len(set(found)) == options["items"] * options["n"]
    assert result.numbers == expected.numbers and result.counts == expected.counts


def test_more_samples_and_items_go_on(tmp_path: Path) -> None:
    settings = SamplingSettings(temperature=0.8)
    finished(tmp_path / "out", items=3, n=2, settings=settings)
    backend = FakeBackend()
    result = finished(tmp_path / "out", backend, items=4, n=3, settings=settings)
    assert len(backend.asked) == 3 + 3
    assert result.numbers == finished(tmp_path / "new", items=4, n=3, settings=settings).numbers
    fewer = finished(tmp_path / "out", backend, items=2, n=2, settings=settings)
    assert fewer.counts["samples"] == 4 and len(backend.asked) == 6


def test_samples_that_cannot_be_had_are_asked_for_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", 5)
    done = collect(plan, FakeBackend(failing=(2, 3)), silent=True)
    assert (done.new, len(done.failed)) == (3, 2) and "500" in done.failed[0]
    result = result_of(plan, rate(plan, silent=True))
    assert result.counts["missing"] == 2 and any("2 samples are missing" in warning for warning in result.warnings)
    backend = FakeBackend()
    assert collect(plan, backend, silent=True).new == 2 and len(backend.asked) == 2
    assert result_of(plan, rate(plan, silent=True)).counts["missing"] == 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"settings": SamplingSettings(max_new_tokens=9)}, "settings.max_new_tokens"),
        ({"shots": 2}, "shots"),
        ({"chat": True}, "chat"),
        ({"task": replace(SUMS, version=2)}, "version"),
    ],
)
def test_samples_of_other_settings_are_refused(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    finished(tmp_path / "out")
    before = (tmp_path / "out" / "samples.jsonl").read_bytes()
    with pytest.raises(IdentityError, match=f"{named}: "):
        collect(plan_of(tmp_path / "out", **change), FakeBackend(), silent=True)
    assert (tmp_path / "out" / "samples.jsonl").read_bytes() == before


def test_samples_of_another_model_or_prompt_are_refused(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    with pytest.raises(IdentityError, match=r'writer\.model: "fake" there, "other" now'):
        collect(plan_of(tmp_path / "out"), FakeBackend(name="other"), silent=True)
    with pytest.raises(IdentityError, match="answers another prompt"):
        collect(plan_of(tmp_path / "out", examples="Q: 1\n\n"), FakeBackend(), silent=True)
    collect(plan_of(tmp_path / "out"), FakeBackend(name="other"), overwrite=True, silent=True)
    assert not (tmp_path / "out" / "scores.jsonl").exists()


def test_scores_are_made_of_the_samples_that_are_there(tmp_path: Path) -> None:
    finished(tmp_path / "out")
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    plan = plan_of(tmp_path / "copy")
    path = tmp_path / "copy" / "samples.jsonl"
    path.write_text(path.read_text().replace("That is 2.", "That is 3."))
    result = result_of(plan, rate(plan, silent=True))
    assert result.numbers["accuracy"].value == pytest.approx(3 / 5 - 1 / 5)
    # another version of the judge: judged anew, nothing generated
    other = replace(SUMS, judge=type(SUMS.judge)(lambda answer, target: True, str.strip, 2))  # type: ignore[call-arg]
    plan = plan_of(tmp_path / "copy", task=other)
    assert result_of(plan, rate(plan, silent=True)).numbers["accuracy"].value == 1.0
    with pytest.raises(FileNotFoundError, match="generate the samples first"):
        rate(plan_of(tmp_path / "nothing"))


class Broken:
    """A judge that is broken for some samples."""

    metric = "accuracy"

    def __init__(self) -> None:
        self.works = False

    def identity(self, how: How) -> dict[str, Any]:
        return {"judge": "broken"}

    def check(self, how: How) -> None:
        pass

    def judge(self, pairs: Sequence[tuple[Any, str]], done: Callable[[int, Verdict], None], how: How) -> None:
        for number in range(len(pairs)):
            if number == 0 and not self.works:
                done(number, Verdict(None, "sandbox", "no space"))
            else:
                done(number, Verdict(1.0, "passed"))


def test_a_broken_judge_is_no_wrong_answer(tmp_path: Path) -> None:
    judge = Broken()
    plan = plan_of(tmp_path / "out", task=replace(SUMS, judge=judge))
    collect(plan, FakeBackend(), silent=True)
    result = result_of(plan, rate(plan, silent=True))
    assert result.numbers["accuracy"].value == 1.0 and result.numbers["accuracy"].items == 4
    assert result.counts["broken"] == 1 and any("failed, which says nothing" in text for text in result.warnings)
    judge.works = True
    result = result_of(plan, rate(plan, silent=True))
    assert result.numbers["accuracy"].items == 5 and result.counts["broken"] == 0


def test_warnings(tmp_path: Path) -> None:
    def about(name: str, backend: FakeBackend, **options: Any) -> str:
        return " ".join(finished(tmp_path / name, backend, **options).warnings)

    assert about("fine", FakeBackend(lambda prompt, index: str(2 * int(prompt.split()[2])))) == ""
    assert "5 of 5 answers were cut off at 256 tokens" in about("cut", FakeBackend(finish="length"))
    assert "not one answer ended by itself" in about(
        "stop", FakeBackend(finish="length"), settings=SamplingSettings(stop=("Q:",))
    )
    assert "in 5 of 5 texts no answer was found" in about("empty", FakeBackend(lambda prompt, index: ""))
    assert "not one of 5 answers is right" in about("wrong", FakeBackend(lambda prompt, index: "7"))
    assert "1 broken rows were left out, the first: row 3" in about("bad", FakeBackend(), bad=["row 3: no question"])


def test_choices(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", 5, task=CHOICES)
    scorer = FakeScorer()
    collect(plan, scorer, silent=True)
    result = result_of(plan, rate(plan, silent=True))
    assert result.numbers["acc"].value == pytest.approx(3 / 5)
    # by length: -1/4 against -2/3, the first again
    assert result.numbers["acc_norm"].value == pytest.approx(3 / 5)
    collect(plan, scorer, silent=True)
    assert len(scorer.asked) == 5
