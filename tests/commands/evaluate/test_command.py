"""`evaluate` from the command line: whole runs on the playground, phases apart, resuming, and one sentence for what is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

import fulgurite.commands.evaluate.command as command
from fulgurite.cli import main
from fulgurite.commands.evaluate.command import evaluate
from fulgurite.evaluation.runner.writers import Writers
from tests.evaluation.runner.fakes import FakeBackend, FakeScorer

PROGRAMS = [
    {
        "task_id": f"HumanEval/{i}",
        "prompt": f'def add{i}(x):\n    """x plus {i}"""\n',
        "entry_point": f"add{i}",
        "canonical_solution": f"    return x + {i}\n",
        "test": f"def check(candidate):\n    assert candidate(1) == {1 + i}\n",
    }
    for i in range(4)
]


def rows_file(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def results_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())["results"]
    return found


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """In place of a model: programs that are right for even numbers."""

    def rule(prompt: str, index: int) -> str:
        number = int(prompt.split("add")[1].split("(")[0])
        return f"    return x + {number if number % 2 == 0 else 7}\n"

    backend = FakeBackend(rule)
    monkeypatch.setattr(command, "load_model", lambda *_: None)
    monkeypatch.setattr(command, "in_process", lambda *_: Writers(backend, FakeScorer()))
    return backend


def test_the_playground(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    choices = {"goal": "Open", "sol1": "push", "sol2": "pull", "label": 1}
    rows = rows_file(tmp_path / "piqa.jsonl", [choices] * 3)
    words = ["evaluate", "--model", "playground", "--tasks", "gsm8k,piqa", "--path", f"gsm8k=builtin,piqa={rows}"]
    words += ["--limit", "3", "--max_new_tokens", "12", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "accuracy" in out and "acc_norm" in out and "95 % interval" in out
    found = results_of(tmp_path / "out")
    assert found["gsm8k"]["numbers"]["accuracy"]["items"] == 3 and found["piqa"]["counts"]["samples"] == 3
    assert found["gsm8k"]["identity"]["writer"]["backend"] == "transformers"
    assert (tmp_path / "out" / "results.png").read_bytes()[:4] == b"\x89PNG"
    before = {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.jsonl")}
    assert main(words) == 0
    assert "3 samples were there already, 0 are new" in capsys.readouterr().out
    assert before == {file: file.read_bytes() for file in (tmp_path / "out").rglob("*.jsonl")}
    assert results_of(tmp_path / "out") == found
    assert main([*words, "--repetition_penalty", "1.5"]) == 1
    assert "settings.repetition_penalty: 1.0 there, 1.5 now" in capsys.readouterr().err


def test_a_dry_run_shows_special_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(model="playground", tasks="gsm8k", path="builtin", chat=True, dry_run=True)
    out = capsys.readouterr().out
    assert "<|user|>" in out and out.count("--- gsm8k") == 3 and "target:" in out
    assert not list(tmp_path.iterdir())


def test_programs_in_the_sandbox_and_phases_apart(
    tmp_path: Path, writers: FakeBackend, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = rows_file(tmp_path / "he.jsonl", PROGRAMS)
    given: dict[str, Any] = dict(tasks="humaneval", path=rows, out=str(tmp_path / "out"))
    evaluate(model="m", phase="generate", **given)
    assert not (tmp_path / "out" / "results.json").exists()
    evaluate(phase="score", **given)
    found = results_of(tmp_path / "out")["humaneval"]
    assert found["numbers"]["pass@1"]["value"] == 0.5
    assert found["counts"]["passed"] == found["counts"]["failed"] == 2
    scores = [json.loads(line) for line in (tmp_path / "out/humaneval/scores.jsonl").read_text().splitlines()[1:]]
    failed = next(score for score in scores if score["item"] == "HumanEval/1")
    assert "AssertionError" in failed["detail"] and failed["answer"].endswith("return x + 7\n\n")
    assert len(writers.asked) == 4
    evaluate(phase="score", overwrite=True, **given)
    assert results_of(tmp_path / "out")["humaneval"]["numbers"] == found["numbers"] and len(writers.asked) == 4


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("gsm8k", "humaneval", "arc_easy", "piqa", "bbh_navigate"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no tasks were given"),
        ({"tasks": "gsm9k"}, "no task 'gsm9k'. Did you mean 'gsm8k'?"),
        ({"tasks": "gsm8k"}, "no --out was given"),
        ({"tasks": "gsm8k", "out": "o"}, "no rows were named"),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin"}, "no model was given"),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin", "server": "http://x/v1"}, "without --served_model"),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin", "served_model": "m"}, "without --server"),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin", "server": "u", "model": "m"}, "a server knows its model"),
        (
            {"tasks": "gsm8k", "out": "o", "path": "builtin", "n": 4, "temperature": 0.0},
            "would give the same answer 4 times",
        ),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin", "n": 4, "k": "1,5"}, "whole numbers from 1 to n=4"),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin", "limit": 0}, "limit=0"),
        ({"tasks": "gsm8k", "out": "o", "path": "gsm8k=builtin,piqa=x"}, "each part names one of the tasks gsm8k"),
        ({"tasks": "gsm8k", "out": "o", "path": "builtin", "phase": "score"}, "generate the samples first"),
    ],
)
def test_one_sentence(options: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        evaluate(**options)
    assert message in str(caught.value)


def test_choices_need_log_likelihoods(tmp_path: Path) -> None:
    rows = rows_file(tmp_path / "p.jsonl", [{"goal": "g", "sol1": "a", "sol2": "b", "label": 0}])
    given: dict[str, Any] = dict(tasks="piqa", path=rows, out=str(tmp_path / "o"), server="http://127.0.0.1:9/v1")
    with pytest.raises(ValueError, match=r"piqa compares log-likelihoods .* servers do not tell them"):
        evaluate(served_model="m", **given)
