"""Programs that are given to be repaired, and answers at the limits: explanations without an end, prompts beyond the window."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground.registry import resolve_backbone
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.repair.loop import repair
from fulgurite.evaluation.repair.results import BY_PROGRAMS, BY_TOKENS, summary
from fulgurite.evaluation.repair.training import pairs_of, turned
from fulgurite.evaluation.tasks import TASKS
from fulgurite.generation.protocol import Sample
from tests.evaluation.repair.fakes import Scripted, made_plan, right, row, rule, run_here


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "run_jobs", run_here)


def fix_row(number: int) -> dict[str, Any]:
    """The same problem in HumanEvalPack's schema, with a program that adds one."""
    made = row(number)
    signature, _, _ = made["prompt"].partition("\n")
    test = made["test"].replace("candidate", made["entry_point"])
    return {**made, "declaration": f"{signature}\n", "buggy_solution": "    return x + 1\n", "test": test}


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "chains.jsonl").read_text().splitlines()[1:]]


@pytest.mark.parametrize("mode", ["hidden", "visible"])
def test_a_given_program_is_the_first(mode: str, tmp_path: Path) -> None:
    rows, task = [fix_row(number) for number in range(4)], TASKS["humanevalfix_python"]
    plan = made_plan(tmp_path, Scripted(rule), rows=rows, task=task, feedback=mode)
    result = summary(plan, repair(plan, silent=True))
    ours = result.methods[0]
    # 0 is mended by any repair, 1 by the first of ours, 2 never, 3 in turn 2.
    assert [round(4 * number.value) for number in ours.solved] == [0, 2, 3]
    assert ours.programs == 4 + 2 and ours.cost.calls == 2 * 6, "the first program costs nothing"
    found = records(tmp_path)
    assert not [r for r in found if r["method"] == "shared" and r["step"] == "program"]
    verdicts = [r for r in found if r["method"] == "shared" and r["step"] == "verdict"]
    assert [r["program"] for r in verdicts] == [f"def shift{n}(x):\n    return x + 1\n" for n in range(4)]
    drawn = [r for r in found if r["method"] == "sampling" and r["step"] == "program"]
    assert {r["turn"] for r in drawn} >= {1, 2} and all("return x + 1" in r["prompt"] for r in drawn)
    assert len({r["prompt"] for r in drawn}) == 4, "each draw of a problem is about the given program"
    by = {method.name: method for method in result.methods}
    assert by[BY_PROGRAMS].solved[0].value == 0 and by[BY_PROGRAMS].programs <= 8


def test_explanations_of_one_given_program_are_compared(tmp_path: Path) -> None:
    """Two chains explain the same failure; the explanation that led to a program that passes is preferred."""

    def two(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        if step == "explanation":
            return "Add the number of the example." if index == 0 else "Look again."
        return right(number) if index == 0 else "    return x\n"

    plan = made_plan(
        tmp_path, Scripted(two), rows=[fix_row(0)], task=TASKS["humanevalfix_python"], n=2, turns=1, baselines=False
    )
    (pair,) = pairs_of(turned(plan, repair(plan, silent=True).book))
    assert (pair["chosen"], pair["rejected"]) == ("Add the number of the example.", "Look again.")


def test_an_explanation_without_an_end_is_used_and_counted(tmp_path: Path) -> None:
    class Endless(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Sample]:
            for sample in super().sample(requests, *more):
                talks = "explanation" in self.asked[-1]
                yield replace(sample, text=sample.text * 50, finish="length") if talks else sample

    plan = made_plan(tmp_path, Endless(rule), items=2, baselines=False)
    result = summary(plan, repair(plan, silent=True))
    assert [2 * number.value for number in result.methods[0].solved] == [1, 2, 2], "the run goes on"
    assert result.methods[0].counts == {"explanation cut off": 1}
    assert any("1 explanations were cut off at 64 tokens" in warning for warning in result.warnings)


def test_tokens_of_a_server_are_counted_by_their_log_probabilities(tmp_path: Path) -> None:
    class Served(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Sample]:
            for sample in super().sample(requests, *more):
                silent = "silent" in self.name and "/2/" in self.asked[-1]
                yield replace(sample, token_ids=None, model_log_probs=None if silent else (-0.5,) * 7)

    told = made_plan(tmp_path / "told", Served(rule), items=3)
    result = summary(told, repair(told, silent=True))
    assert result.methods[0].cost.tokens == 7 * result.methods[0].cost.calls
    silent = made_plan(tmp_path / "silent", Served(rule, "silent"), items=3)
    result = summary(silent, repair(silent, silent=True))
    assert result.methods[0].cost.tokens is None and BY_TOKENS not in [method.name for method in result.methods]
    assert any("the server does not say how many tokens it used" in warning for warning in result.warnings)
    named = [
        warning for warning in result.warnings if "scripted, model silent" in warning and "neither usage nor" in warning
    ]
    assert len(named) == 1, "once, by name"


def test_tokens_of_a_server_without_log_probabilities_are_those_that_it_counts(tmp_path: Path) -> None:
    class Counting(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Sample]:
            for sample in super().sample(requests, *more):
                yield replace(sample, token_ids=None, counted=11, prompt_tokens=100)

    plan = made_plan(tmp_path, Counting(rule), items=3)
    by = {method.name: method for method in summary(plan, repair(plan, silent=True)).methods}
    calls = by["intervenor"].cost.calls
    assert (by["intervenor"].cost.generated, by["intervenor"].cost.prompted) == (11 * calls, 100 * calls)
    assert by[BY_TOKENS].cost.tokens == 111 * by[BY_TOKENS].programs <= 111 * calls


def test_budgets_that_are_compared_both_hold_prompts_or_neither_does(tmp_path: Path) -> None:
    """The learner's server counts prompts, the teacher's counts nothing but answers."""

    class Counting(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Sample]:
            prompted = 1000 if self.name == "learner" else None
            for sample in super().sample(requests, *more):
                yield replace(sample, token_ids=None, counted=10, prompt_tokens=prompted)

    plan = made_plan(tmp_path, Counting(rule, "learner"), items=3, teacher=Counting(rule, "teacher"))
    result = summary(plan, repair(plan, silent=True))
    for method in result.methods:
        assert method.cost.prompted is None and method.cost.tokens == 10 * method.cost.calls
    assert [name for name in result.warnings if "prompts" in name] == [
        "tokens are those of the answers: the tokens of the prompts of scripted, model teacher cannot be counted"
    ]


def test_a_prompt_beyond_the_window_is_answered_by_nothing(tmp_path: Path) -> None:
    backend = Scripted(rule)
    plan = made_plan(tmp_path, backend, items=2, baselines=False)
    tokenizer = load_tokenizer(resolve_backbone("playground"))
    size = max(len(tokenizer(problem.start)["input_ids"]) for problem in plan.problems)
    seeing = replace(plan.learner, tokenizer=tokenizer, window=size + 5)
    plan = replace(plan, learner=seeing, teacher=seeing)
    result = summary(plan, repair(plan, silent=True))
    assert [2 * number.value for number in result.methods[0].solved] == [1, 1, 1]
    assert len(backend.asked) == 2 and result.methods[0].counts["longer than the window"] == 4
    assert any("4 prompts are longer than the model's window" in warning for warning in result.warnings)
    answered = [record["prompt_tokens"] for record in records(tmp_path) if record.get("finish") == "stop"]
    assert len(answered) == 2 and all(0 < tokens < size + 5 for tokens in answered)
    assert result.methods[0].cost.prompted == sum(answered)
