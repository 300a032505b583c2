"""Numbers of chains: intervals of differences in closed form, repeated programs, sampling within a budget of tokens."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.repair.oddities import same_program
from fulgurite.evaluation.repair.results import BY_PROGRAMS, BY_TOKENS, RepairResult, difference_of
from fulgurite.generation.protocol import SamplingSettings
from tests.evaluation.repair.fakes import Scripted, made_plan, ran, right, rule, run_here


def test_the_interval_of_a_paired_difference() -> None:
    """Agresti and Min: with b and c disagreements half an item is added to each, and two items in all."""
    found = difference_of([1, 1, 1, 0, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0, 0, 0])  # b = 3, c = 1
    middle, error = 2 / 10, math.sqrt(5 - 2**2 / 10) / 10
    assert found.value == 0.25 and found.error == pytest.approx(error)
    assert (found.low, found.high) == (
        pytest.approx(middle - 1.959964 * error),
        pytest.approx(middle + 1.959964 * error),
    )
    same = difference_of([1.0] * 50, [1.0] * 50)
    assert same.value == 0 and -0.1 < same.low < 0 < same.high < 0.1, "it has a width though the methods never differ"
    shares = difference_of([0.5, 0.25, 1.0], [0.25, 0.25, 0.5])
    assert shares.value == 0.25 and shares.high == pytest.approx(0.25 + 1.959964 * 0.25 / math.sqrt(3))
    assert difference_of([1.0], [0.0]).high == 1.0


def test_the_same_program_but_for_its_looks() -> None:
    assert same_program("def f(x):\n    return x  # as it is\n", "def f(x):\n\n    return (x)\n")
    assert not same_program("def f(x):\n    return x", "def f(x):\n    return -x")
    assert same_program("def f(:  return", "def  f(: return") and not same_program("def f(:", "def g(:")


def test_sampling_with_a_poor_budget_of_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Independent programs that are longer than all that ours wrote: with the same tokens there are fewer of them."""
    monkeypatch.setattr(judging, "run_jobs", run_here)

    def made(name: str, words: int) -> RepairResult:
        def long(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
            before = "    # " + "many words " * words + "\n" if method == "sampling" else ""
            return before + rule("self_repair", 2, index, turn, step, seed)

        return ran(made_plan(tmp_path / name, Scripted(long), items=2))

    by = {method.name: method for method in made("some", 8).methods}
    assert len(by[BY_PROGRAMS].solved) == 3 and len(by[BY_TOKENS].solved) < 3
    used, ours, three = (by[name].cost.tokens for name in (BY_TOKENS, "intervenor", BY_PROGRAMS))
    assert used is not None and ours is not None and three is not None and used <= ours < three
    result = made("many", 200)
    assert BY_TOKENS not in [method.name for method in result.methods]
    assert any("a program of each chain takes more tokens than all of ours" in warning for warning in result.warnings)


def test_several_chains_of_an_item_are_a_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "run_jobs", run_here)

    def half(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        return right(number) if step == "program" and index % 2 == 0 else rule(method, 2, index, turn, step, seed)

    result = ran(made_plan(tmp_path, Scripted(half), items=3, n=4, baselines=False, settings=SamplingSettings(64, 0.8)))
    assert [number.value for number in result.methods[0].solved] == [0.5] * 3
    assert result.methods[0].solved[0].items == 3 and result.chains == (12, 12)
    assert result.first_errors["AssertionError"][:2] == (6, 0)


def test_oddities_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 holds a shown value and passes only what is shown, 1 holds it and passes nothing, 2 defines another function."""
    monkeypatch.setattr(judging, "run_jobs", run_here)

    def odd(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        shown = 7 + 1002 + 50 * number
        held = "    return 0 if x else {7: %d}\n" if number == 1 else "    return {7: %d}.get(x)\n"
        return held % shown if number < 2 else "def plus(x):\n    return x\n"

    plan = made_plan(tmp_path, Scripted(odd), items=3, turns=1, feedback="visible", baselines=False)
    result = ran(plan)
    assert result.methods[0].counts["hard-coded"] == 3, "0 once, 1 in both turns"
    assert result.methods[0].counts["hard-coded only"] == 1
    assert result.methods[0].counts["other function"] == 2 and result.methods[0].counts["identical"] == 2
    assert any("2 programs define another function than the one that is asked for" in said for said in result.warnings)
    prompts = [json.loads(line).get("prompt", "") for line in plan.file.read_text().splitlines()[1:]]
    assert any("the program defines no shift2, which is asked for; it defines plus" in prompt for prompt in prompts)


@pytest.mark.parametrize(
    "text", ["assert shift0(7) == 5", "7) == 5\nassert shift0(8) == 5", "```python\nassert shift0(7) == 5"]
)
def test_wrong_tests_of_a_model_are_counted(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that expects 5 refuses its own right program, then hands in one that is wrong and gives 5."""
    monkeypatch.setattr(judging, "run_jobs", run_here)

    def mistaken(method: str, number: int, index: int, turn: int, step: str, seed: int) -> str:
        if step == "tests":
            return text  # behind a prompt that ends with "assert shift0("
        return right(number) if turn == 0 else "    return 5\n"

    result = ran(made_plan(tmp_path, Scripted(mistaken), items=1, turns=1, feedback="selfgen", baselines=False))
    counts = result.methods[0].counts
    assert counts["refused though right"] == 1 and counts["passed though wrong"] == 1
    assert result.methods[0].lost == [0, 1] and [number.value for number in result.methods[0].solved] == [1, 0]
    assert any("1 programs fail the model's own tests and pass the hidden ones" in said for said in result.warnings)
