"""The loop: turns and their numbers, resuming after any kill, failures in the middle, what each feedback mode shows."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fulgurite.evaluation.judging.verdicts import How
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.repair.book import KEY
from fulgurite.evaluation.repair.loop import MOST_ROUNDS, repair
from fulgurite.evaluation.repair.results import BY_PROGRAMS, BY_TOKENS, RepairResult, summary
from fulgurite.evaluation.runner.record_file import IdentityError
from fulgurite.generation import ServerError
from fulgurite.generation.protocol import Sample, SamplingSettings
from tests.evaluation.repair.fakes import Scripted, hidden_values, made_plan, ran, right, row, rule, run_here
from tests.forking.killing import killed_at, size_of


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "chains.jsonl").read_bytes().split(b"\n")[1:-1]]


def solved(result: RepairResult) -> dict[str, list[float]]:
    return {method.name: [round(6 * number.value, 6) for number in method.solved] for method in result.methods}


def told(result: RepairResult) -> str:
    return json.dumps(result.to_dict(), sort_keys=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, RepairResult]:
    folder = tmp_path_factory.mktemp("whole")
    return folder, ran(made_plan(folder))


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sandbox, whose start takes most of the time."""
    monkeypatch.setattr(judging, "run_jobs", run_here)


def test_the_turns_and_their_numbers(whole: tuple[Path, RepairResult]) -> None:
    folder, result = whole
    found = solved(result)
    assert found["intervenor"] == [1, 3, 4], "0 at once; 1 and 4 after a turn; 3 after two"
    assert found["self_repair"] == found["step_by_step"] == [1, 2, 4]
    ours = result.methods[0]
    assert (ours.newly, ours.lost) == ([1, 2, 1], [0, 0, 0])
    assert result.transitions == {
        ("AssertionError", "solved"): 2,
        ("AssertionError", "AssertionError"): 4,
        ("NameError", "AssertionError"): 1,
        ("NoProgram", "solved"): 1,
    }
    fixed = {kind: (chains, repaired) for kind, (chains, repaired, _) in result.first_errors.items()}
    assert fixed == {"AssertionError": (3, 1), "NameError": (1, 1), "NoProgram": (1, 1)}
    # Programs: 6, then 5 and 3 repairs; each repair of ours asks the teacher first.
    assert (ours.programs, ours.cost.calls) == (14, 22)
    assert ours.counts == {"identical": 4, "no program": 1}
    assert ours.cost.prompted is None and any("cannot be counted" in warning for warning in result.warnings)
    answers = [r for r in records(folder) if r["step"] != "verdict" and r["method"] in ("shared", "intervenor")]
    assert ours.cost.generated == sum(r["tokens"] for r in answers)


def test_sampling_has_the_same_budget(whole: tuple[Path, RepairResult]) -> None:
    folder, result = whole
    by = {method.name: method for method in result.methods}
    rounds = {int(r["turn"]) for r in records(folder) if r["method"] == "sampling"}
    assert len(by[BY_PROGRAMS].solved) == 3 and by[BY_PROGRAMS].programs <= 18
    assert by[BY_TOKENS].cost.tokens <= by["intervenor"].cost.tokens
    assert len(by[BY_TOKENS].solved) <= len(rounds) <= MOST_ROUNDS * 3
    drawn = {}
    for record in records(folder):
        if record["method"] == "sampling" and record["step"] == "program":
            drawn.setdefault(record["item"], []).append((record["turn"], record["text"], record["prompt"]))
    for item, texts in drawn.items():
        number = int(item.split("/")[1])
        assert {prompt for _, _, prompt in texts} == {row(number)["prompt"]}, "the first prompt each time"
        assert all(text != right(number) for _, text, _ in texts[:-1]), "a chain ends with the first that passes"
    more = [t for t in drawn.values() if len(t) > 3]
    assert more, "some chains use their tokens for more than T + 1 programs"


def test_what_stands_there_is_not_asked_again(whole: tuple[Path, RepairResult]) -> None:
    folder, result = whole
    before, backend = (folder / "chains.jsonl").read_bytes(), Scripted(rule)
    assert told(ran(made_plan(folder, backend))) == told(result)
    assert backend.asked == [] and (folder / "chains.jsonl").read_bytes() == before


def test_killed_at_ten_moments(tmp_path: Path, here: None) -> None:
    """A process of its own gets kill -9 when its file has grown by a random number of bytes."""
    whole, killed = tmp_path / "whole", tmp_path / "killed" / "chains.jsonl"
    result = ran(made_plan(whole))
    draws, size = random.Random(4), (whole / "chains.jsonl").stat().st_size
    for _ in range(10):
        target = size_of(killed) + draws.randrange(1, size // 10)
        killed_at(lambda: ran(made_plan(killed.parent)), killed, target)
    assert len(records(killed.parent)) < len(records(whole))
    assert told(ran(made_plan(killed.parent))) == told(result)
    key = lambda record: [str(record[name]) for name in KEY]  # noqa: E731
    assert sorted(records(killed.parent), key=key) == sorted(records(whole), key=key)


def test_more_turns_and_chains_go_on(tmp_path: Path, here: None) -> None:
    plan = lambda backend, **more: made_plan(tmp_path, backend, items=3, baselines=False, **more)  # noqa: E731
    first = ran(plan(Scripted(rule), turns=1))
    backend = Scripted(rule)
    again = ran(plan(backend, turns=2, n=2))
    assert first.methods[0].cost.calls == 7 and again.methods[0].cost.calls == 2 * (3 + 2 * 2 + 2)
    assert len(backend.asked) == again.methods[0].cost.calls - 7
    assert len({tuple(map(str, r.items())) for r in records(tmp_path)}) == len(records(tmp_path))
    assert again.chains == (6, 6) and again.methods[0].solved[1].items == 3
    fewer = Scripted(rule)
    assert told(ran(plan(fewer, turns=1))) == told(first) and fewer.asked == []


def test_answers_that_could_not_be_had(tmp_path: Path, here: None) -> None:
    """Turn 2 of problem 3 fails: its chain is left out and said to be, the next run asks for that answer alone."""
    broken = Scripted(rule, failing=[("intervenor", 3, 2, "explanation")])
    done = repair(plan := made_plan(tmp_path, broken), silent=True)
    assert done.troubles == {
        ("intervenor", "HumanEval/3", 0): "turn 2: the explanation could not be had: the server said 500"
    }
    result = summary(plan, done)
    assert result.chains == (5, 6) and result.methods[0].solved[0].items == 5
    assert any("1 of 6 chains are not done" in w and "the server said 500" in w for w in result.warnings)
    backend = Scripted(rule)
    assert solved(ran(made_plan(tmp_path, backend)))["intervenor"] == [1, 3, 4]
    assert [key for key in backend.asked if "sampling" not in key] == [
        f"humaneval/intervenor/HumanEval/3/0/2/{step}" for step in ("explanation", "program")
    ]


def test_a_server_that_is_gone_in_turn_2(tmp_path: Path, here: None) -> None:
    class Gone(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Sample]:
            for sample in super().sample(requests, *more):
                if "/2/" in self.asked[-1].removeprefix("humaneval/"):
                    raise ServerError("ServerBackend: 10 requests in a row failed")
                yield sample

    never = Scripted(lambda method, number, *rest: rule(method, 2, *rest))
    gone = Gone(never.rule)
    plan = made_plan(tmp_path / "gone", gone, items=2, turns=3)
    done = repair(plan, silent=True)
    assert isinstance(done.stopped, ServerError) and len(done.troubles) >= 2
    assert not any("sampling" in key for key in gone.asked), "nothing more is asked behind the failure"
    result = summary(plan, done)
    assert result.chains == (0, 2) and any("2 of 2 chains are not done" in w for w in result.warnings)
    whole = ran(made_plan(tmp_path / "gone", Scripted(never.rule), items=2, turns=3))
    assert told(whole) == told(ran(made_plan(tmp_path / "other", Scripted(never.rule), items=2, turns=3)))


@pytest.mark.parametrize("mode", ["visible", "selfgen", "hidden"])
def test_no_prompt_holds_a_hidden_value_unless_the_mode_says_so(mode: str, tmp_path: Path) -> None:
    result = ran(made_plan(tmp_path, feedback=mode, turns=2))
    prompts = [(r["item"], r["prompt"]) for r in records(tmp_path) if "prompt" in r]
    assert len(prompts) > 30
    leaked = [
        item
        for item, prompt in prompts
        if any(v in prompt for v in hidden_values(int(item.removeprefix("HumanEval/"))))
    ]
    assert bool(leaked) == (mode == "hidden")
    if mode == "hidden":
        return
    assert [round(6 * number.value) for number in result.methods[0].solved] == [1, 3, 4]
    shown = [prompt for _, prompt in prompts if "The failing test: assert shift" in prompt]
    assert shown and all(re.search(r"shift\d\(7\)", prompt) for prompt in shown)
    # Problem 5 passes what is shown and nothing else: it ends at its first program, and is counted.
    assert result.methods[0].counts["hard-coded only"] == 1
    assert any(
        "with such values pass what is shown and fail the hidden tests" in warning for warning in result.warnings
    )
    assert result.methods[0].counts["passed though wrong"] == 1


def test_a_chain_without_a_test_ends(tmp_path: Path) -> None:
    rows = [{**row(1), "prompt": 'def shift1(x):\n    """Adds a fixed number."""\n'}]
    result = ran(made_plan(tmp_path, rows=rows, feedback="visible", baselines=False))
    assert result.methods[0].counts == {"no tests": 1} and result.chains == (1, 1)
    assert any("the problem shows no example" in warning for warning in result.warnings)
    assert any("the baselines were left out" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", ["programs", "tokens"])
def test_a_budget_ends_the_run_between_turns(name: str, tmp_path: Path, here: None) -> None:
    """What the first turn brings is over the budget: there is no second one, for no method; a larger budget goes on from there."""
    free = ran(made_plan(tmp_path / "free", turns=3))
    one = ran(made_plan(tmp_path / "one", turns=1))
    used = one.methods[0].programs if name == "programs" else one.methods[0].cost.tokens
    assert used is not None
    backend = Scripted(rule)
    found = ran(made_plan(tmp_path / "out", backend, turns=3, **{f"max_{name}": used}))
    assert told(found).partition('"warnings"')[0] == told(one).partition('"warnings"')[0]
    (said,) = (warning for warning in found.warnings if "budget" in warning and "ended the run" in warning)
    assert (
        said
        == f"the budget of {used:,} {name} ended the run: intervenor has used {used:,} up to turn 1, so that turn 2 did not begin"
    )
    assert not any(key.split("/")[-2] == "2" for key in backend.asked if "sampling" not in key)
    again = Scripted(rule)
    assert (
        told(ran(made_plan(tmp_path / "out", again, turns=3, **{f"max_{name}": used}))) == told(found)
        and not again.asked
    )
    assert told(ran(made_plan(tmp_path / "out", turns=3))) == told(free)
    assert told(ran(made_plan(tmp_path / "out", again, turns=3, **{f"max_{name}": used}))) == told(found), (
        "later turns do not count"
    )
    more = ran(made_plan(tmp_path / "more", turns=3, **{f"max_{name}": used + 1}))
    assert len(more.methods[0].solved) > 2


def test_a_budget_of_tokens_needs_a_server_that_counts(tmp_path: Path, here: None) -> None:
    class Silent(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Sample]:
            for sample in super().sample(requests, *more):
                yield replace(sample, token_ids=None)

    with pytest.raises(ValueError, match=r"max_tokens=50 cannot be kept.*give max_programs"):
        repair(made_plan(tmp_path, Silent(rule), max_tokens=50), silent=True)


def test_an_infinite_loop_is_named(tmp_path: Path) -> None:
    def loops(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        return "    while True:\n        pass\n" if turn == 0 else rule(method, 0, index, turn, step, seed)

    plan = made_plan(tmp_path, Scripted(loops), items=1, turns=1, baselines=False, how=How(seconds=1.0))
    result = ran(plan)
    assert result.transitions == {("Timeout", "solved"): 1}
    (prompt,) = (r["prompt"] for r in records(tmp_path) if r["step"] == "explanation")
    assert "the program does not end" in prompt and "loop for ever" in prompt


def test_other_models_settings_and_templates_are_refused(whole: tuple[Path, RepairResult]) -> None:
    folder, _ = whole
    with pytest.raises(IdentityError, match=r'learner\.writer\.model: "scripted" there, "other" now'):
        repair(made_plan(folder, Scripted(rule, "other")), silent=True)
    with pytest.raises(IdentityError, match=r"teacher\.writer\.model"):
        repair(made_plan(folder, teacher=Scripted(rule, "other")), silent=True)
    with pytest.raises(IdentityError, match=r"temperature: 0\.2 there, 0\.5 now"):
        repair(made_plan(folder, settings=SamplingSettings(64, 0.5)), silent=True)
    with pytest.raises(IdentityError, match="the program of humaneval HumanEval/0 in turn 0 answers another prompt"):
        repair(made_plan(folder, rows=[{**row(0), "prompt": 'def shift0(x):\n    """Another text."""\n'}]), silent=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"feedback": "loud"}, "feedback='loud'; allowed are hidden, visible, selfgen"),
        ({"turns": -1}, "turns=-1; allowed are 0 and more"),
        ({"max_tokens": 0}, "max_tokens=0; allowed are 1 and more"),
        ({"n": 2, "settings": SamplingSettings(64, 0.0)}, "n=2 with temperature 0 would give the same chain 2 times"),
        ({"sampling_temperature": 0.0}, "independent samples at temperature 0 are all the same"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        made_plan(tmp_path, **options)
