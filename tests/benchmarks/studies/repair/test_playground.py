"""The study of repairs on the playground: its rows, that held-out tasks are not trained on, and a whole run on a few rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.studies.repair import playground as study
from benchmarks.studies.repair.rows import PROMPTS, Broken, StepTask, broken, chain_rows, tasks, writing_rows
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground.content.interpreter import Program
from fulgurite.data.playground.draw import Draw
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.repair.feedback import outcome_of
from fulgurite.evaluation.repair.problems import judge_of, problem_of
from fulgurite.evaluation.repair.prompts import Templates
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import items_of
from fulgurite.sandbox import Sandbox, run_many
from tests.evaluation.repair.fakes import run_here


def some(count: int) -> list[tuple[StepTask, Broken]]:
    draw = Draw("some")
    return [(task, broken(task, draw)) for task in tasks("train", count)]


def test_held_out_tasks_are_in_no_training_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not {task.steps for task in tasks("test", study.ASKED)} & {
        task.steps for task in tasks("train", study.TRAINED)
    }
    monkeypatch.setattr(study, "TRAINED", 150)
    counts = study.write_data(tmp_path)
    assert counts == {"tasks": 150, "held_out": study.ASKED, "writing": 300, "made": 4 * 4 * 150}
    trained = "".join((tmp_path / f"{name}.jsonl").read_text() for name in ("tasks", "writing", "made"))
    for task in tasks("test", study.ASKED):
        asked = task.text.partition(" that ")[2]
        assert f" that {asked}" not in trained, asked
    assert study.write_data(tmp_path / "again") == counts
    for name in counts:
        file = f"{name}.jsonl"
        assert (tmp_path / file).read_bytes() == (tmp_path / "again" / file).read_bytes(), "the same rows each time"


def test_broken_programs_fail_and_their_words_say_why() -> None:
    said = set()
    for task, wrong in some(200):
        given = [Program(wrong.source).call(task.name, x) for x in task.inputs]
        wanted = [Program(task.source).call(task.name, x) for x in task.inputs]
        first = next(i for i, pair in enumerate(zip(given, wanted, strict=True)) if pair[0] != pair[1])
        outcome = wrong.outcome
        assert (outcome["source"], outcome["actual"], outcome["expected"]) == (
            task.tests[first],
            str(given[first]),
            str(wanted[first]),
        )
        assert "x =" not in wrong.why and "def " not in wrong.why, "an explanation writes no code"
        said.add(wrong.why.translate(str.maketrans("", "", "0123456789")))
    assert len(said) > 10 and "The program returns nothing: its last line must return x." in said


def test_what_a_made_chain_quotes_is_what_the_sandbox_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The outcome of a broken program is worked out without running it."""
    monkeypatch.setattr(study, "TRAINED", 3)
    study.write_data(tmp_path)
    task = TASKS["mbpp"]
    items = {item.data["text"]: item for item in items_of(task, str(tmp_path / "tasks.jsonl"), 3).items}
    pairs = [(made, wrong) for made, wrong in some(3) if made.text in items]
    jobs = [judge_of(task).job(items[made.text], wrong.source) for made, wrong in pairs]
    assert len(jobs) == 3
    for (made, wrong), result in zip(pairs, run_many(jobs, sandbox=Sandbox(quiet=True)), strict=True):
        found = outcome_of(result)
        assert {name: found[name] for name in wrong.outcome} == wrong.outcome
        assert problem_of(task, items[made.text]).task == made.shown, (
            "the prompts of the loop and of the rows are the same"
        )


def test_rows_are_conversations_that_fit_the_window() -> None:
    templates, tokenizer = Templates(PROMPTS), load_tokenizer("playground")
    for task, wrong in some(50):
        rows = [*writing_rows(task, templates), *chain_rows(task, wrong, templates)]
        assert [len(row["messages"]) for row in rows] == [2] * 6
        explanation, mended, by_error, in_steps = (row["messages"][1]["content"] for row in rows[2:])
        assert explanation == wrong.why and mended == by_error == f"```python\n{task.source}```"
        assert in_steps == f"{explanation}\n{mended}"
        for row, name in zip(rows, ("write", "tests", "teach", "repair", "repair_error", "repair_steps"), strict=True):
            assert ("What is wrong?" in row["messages"][0]["content"]) == (name == "teach")
            assert (wrong.why in row["messages"][0]["content"]) == (name == "repair")
            size = len(tokenizer.apply_chat_template(row["messages"], tokenize=True, return_dict=True)["input_ids"])
            assert size < 300, name
        # With the token that begins a text in place of the one that ends an answer. Two mistakes may be too many for the limits.
        assert len(tokenizer(mended)["input_ids"]) <= study._PROGRAM
        if wrong.why.count("Step ") < 2:
            assert len(tokenizer(wrong.why)["input_ids"]) <= study._EXPLANATION
            assert len(tokenizer(in_steps)["input_ids"]) <= study._PROGRAM


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of it with two steps of training and two tasks, whose programs run here."""
    folder = tmp_path_factory.mktemp("study")
    small = {"FOLDER": folder, "SEEDS": (0,), "TRAINED": 12, "ASKED": 2, "OWN": 1, "TURNS": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**small, "WRITING_STEPS": 2, "CHAIN_STEPS": 2, "_PROGRAM": 16, "_EXPLANATION": 8}.items():
            patch.setattr(study, name, value)
        patch.setattr(judging, "run_jobs", run_here)
        found = study.run(folder)
        patch.setattr(study, "_run", lambda words: pytest.fail(f"{words} is done already"))
        again = study.run(folder)
    assert again["models"] == found["models"], "what stands there is taken"
    return json.loads(json.dumps({**found, "date": "today", "machine": {"device": "here", "torch": "2"}}))


@pytest.mark.slow
def test_every_model_has_the_same_trials(figures: dict[str, Any], tmp_path: Path) -> None:
    assert list(figures["models"]) == list(study.MODELS) and figures["rows"]["own chains, by seed"] == [0]
    for modes in figures["models"].values():
        assert list(modes) == list(study.MODES)
        for found in modes.values():
            ours = found["methods"]["intervenor"]
            assert len(ours["solved"]) == 2 and ours["solved"][0]["items"] == 2 and len(ours["by seed"]) == 1
            assert {"self_repair", "step_by_step", "sampling, equal programs"} <= set(found["methods"])
    study.report(figures, tmp_path)
    page = (tmp_path / "repair_playground.md").read_text()
    assert "Every rate has 2 trials (1 seeds)" in page and page.count("| after | intervenor |") == 3
    assert (tmp_path / "repair_playground.png").read_bytes()[:4] == b"\x89PNG"


def test_seeds_and_tasks_are_put_together() -> None:
    """Two seeds of three tasks: a rate is the mean, its interval is over tasks, ours is compared in pairs."""

    def run(*solved: list[bool]) -> dict[str, Any]:
        method = {"solved": list(solved), "tokens": 10, "programs": 3, "counts": {"identical": 1}}
        sampled = {**method, "solved": [[False] * 3] * len(solved)}
        return {"methods": {"intervenor": method, "self_repair": sampled}, "first errors": {"AssertionError": [2, 1]}}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study, "TURNS", 1)
        runs = [run([True, False, False], [True, True, False]), run([False] * 3, [True, False, False])]
        found = study._merged(runs)
    ours = found["methods"]["intervenor"]
    assert [round(6 * number["value"]) for number in ours["solved"]] == [1, 3]
    assert ours["by seed"] == [pytest.approx(2 / 3), pytest.approx(1 / 3)] and ours["solved"][1]["items"] == 3
    assert (ours["tokens"], ours["programs"], ours["counts"]) == (20, 6, {"identical": 2})
    assert found["methods"]["self_repair"]["ours minus it"]["value"] == 0.5
    assert found["first errors"] == {"AssertionError": [4, 2]}
