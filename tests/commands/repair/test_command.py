"""`fulgurite repair` from the command line: whole runs, resuming, two models, and one sentence for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fulgurite.commands.repair.command as command
from fulgurite.cli import main
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.runner.writers import Writers
from fulgurite.generation import ServerError
from tests.evaluation.repair.fakes import Scripted, row, rule, run_here


@pytest.fixture
def rows(tmp_path: Path) -> str:
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row(number)) + "\n" for number in range(6)))
    return str(file)


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> list[Scripted]:
    """In place of models, one for each that is loaded; their programs run here."""
    made: list[Scripted] = []

    def load(verb: str, source: Any, compute: Any) -> Any:
        made.append(Scripted(rule, str(source.model)))
        return SimpleNamespace(model=None, backend=made[-1])

    monkeypatch.setattr(command, "load_model", load)
    monkeypatch.setattr(command, "in_process", lambda loaded, *more: Writers(loaded.backend, None))
    monkeypatch.setattr(judging, "run_jobs", run_here)
    return made


def words(out: Path, rows: str, *more: str) -> list[str]:
    return ["repair", "--model", "m", "--tasks", "humaneval", "--path", rows, "--turns", "2", "--out", str(out), *more]


def results(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results.json").read_text())["results"]
    return found


def test_a_whole_run(tmp_path: Path, rows: str, backends: list[Scripted], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(words(out, rows, "--feedback", "hidden,visible")) == 0
    said = capsys.readouterr().out
    assert "humaneval, feedback hidden: solved, 6 of 6 chains" in said and "feedback visible: solved" in said
    assert "the numbers are no pass@1" in said and "scored on the hidden tests" in said
    for name in ("intervenor", "self_repair", "step_by_step", "sampling, equal programs", "sampling, equal tokens"):
        assert name in said
    assert "error before a turn, and after it" in said and "repaired, by the first error" in said
    assert "sft.jsonl, 12 rows" in said, "three repairs of each method, three explanations"
    found = results(out)
    assert set(found) == {"humaneval hidden", "humaneval visible"}
    ours = found["humaneval hidden"]["methods"]["intervenor"]
    assert [round(6 * number["value"]) for number in ours["solved"]] == [1, 3, 4]
    assert {"low", "high", "error"} <= set(ours["solved"][2]) and ours["cost"]["calls"] == 22
    assert (out / "results.png").read_bytes()[:4] == b"\x89PNG" and (out / "results.png").stat().st_size > 10_000
    before = {file: file.read_bytes() for file in out.rglob("*.jsonl")}
    assert main(words(out, rows, "--feedback", "hidden,visible")) == 0
    assert "answers and verdicts were there already, 0 answers are new" in capsys.readouterr().out
    assert before == {file: file.read_bytes() for file in out.rglob("*.jsonl")} and results(out) == found
    assert len(backends) == 2 and backends[1].asked == []
    assert main(words(out, rows, "--feedback", "hidden", "--temperature", "0.5")) == 1
    assert "they are not mixed" in capsys.readouterr().err


def test_two_models(tmp_path: Path, rows: str, backends: list[Scripted]) -> None:
    assert main(words(tmp_path / "out", rows, "--teacher", "t", "--baselines", "false", "--limit", "2")) == 0
    learner, teacher = backends
    assert (learner.name, teacher.name) == ("m", "t")
    assert teacher.asked and all(key.endswith("/explanation") for key in teacher.asked)
    assert all(key.endswith("/program") for key in learner.asked)
    identity = results(tmp_path / "out")["humaneval visible"]["identity"]
    assert identity["teacher"]["writer"]["model"] == "t" and identity["learner"]["writer"]["model"] == "m"


def test_a_server_that_is_gone(
    tmp_path: Path,
    rows: str,
    backends: list[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is there is reported, and the exit code says that the run is not whole."""

    class Gone(Scripted):
        def sample(self, requests: Any, *more: Any) -> Iterator[Any]:
            for sample in super().sample(requests, *more):
                if "/2/" in self.asked[-1].partition("HumanEval/")[2][1:]:
                    raise ServerError("ServerBackend: 10 requests in a row failed; 3 samples are missing")
                yield sample

    monkeypatch.setattr(command, "in_process", lambda *_: Writers(Gone(rule, "m"), None))
    assert main(words(tmp_path / "out", rows, "--baselines", "false")) == 1
    captured = capsys.readouterr()
    assert "ServerBackend: 10 requests in a row failed" in captured.err
    assert "4 of 6 chains" in captured.out and "run the same command again" in captured.out
    monkeypatch.setattr(command, "in_process", lambda *_: Writers(Scripted(rule, "m"), None))
    assert main(words(tmp_path / "out", rows, "--baselines", "false")) == 0
    assert "6 of 6 chains" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--feedback", "loud"], "feedback='loud'; allowed are hidden, visible, selfgen"),
        (["--tasks", "gsm8k"], "gsm8k has no programs to repair; the tasks are: codeerror, humaneval"),
        (["--turns", "-1"], "turns=-1"),
        (["--n", "0"], "n=0; allowed are 1 and more"),
        (["--limit", "0"], "limit=0; give 1 or more"),
        (["--max_programs", "0"], "max_programs=0; allowed are 1 and more"),
        (["--explanation_tokens", "0"], "max_new_tokens=0"),
        (["--served_model", "x"], "served_model x without its server"),
        (["--server", "http://127.0.0.1:1/v1"], "a server and a model were given for one role"),
        (["--prompts", "nowhere"], "no such folder of templates: nowhere"),
    ],
)
def test_what_makes_no_sense(
    more: list[str], said: str, tmp_path: Path, rows: str, backends: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path / "out", rows, *more)) == 1
    assert said in capsys.readouterr().err and not any(backend.asked for backend in backends)


def test_a_template_of_ones_own(
    tmp_path: Path, rows: str, backends: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "prompts"
    assert main(["repair", "--write_prompts", str(folder)]) == 0
    assert "12 templates" in capsys.readouterr().out
    (folder / "teach.completion.jinja").write_text("Why does {{ entry_point }} fail with {{ error_type }}?")
    assert main(words(tmp_path / "out", rows, "--prompts", str(folder), "--limit", "2", "--baselines", "false")) == 0
    records = [
        json.loads(line) for line in (tmp_path / "out/humaneval/visible/chains.jsonl").read_text().splitlines()[1:]
    ]
    asked = [record["prompt"] for record in records if record["step"] == "explanation"]
    assert asked == ["Why does shift1 fail with AssertionError?"]
    (folder / "teach.completion.jinja").write_text("{{ bug }}")
    capsys.readouterr()
    assert main(words(tmp_path / "other", rows, "--prompts", str(folder))) == 1
    assert "names the unknown field 'bug'" in capsys.readouterr().err
    assert not (tmp_path / "other").exists(), "before anything runs"


def test_a_list_and_a_dry_run(
    tmp_path: Path, rows: str, backends: list[Scripted], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["repair", "--list", "true"]) == 0
    assert "codeerror" in (said := capsys.readouterr().out) and "humanevalfix_python" in said
    assert main([*words(tmp_path / "out", rows, "--feedback", "selfgen"), "--dry_run", "true"]) == 0
    said = capsys.readouterr().out
    assert all(f"--- {name}, HumanEval/0" in said for name in ("tests", "write", "teach", "repair", "repair_error"))
    assert "stops at: '\\n###'" in said and not (tmp_path / "out").exists()


def test_the_playground(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "repair --model playground --tasks mbpp --path builtin --limit 2 --chat true --turns 1 --max_new_tokens 24"
    assert main([*line.split(), "--explanation_tokens", "16", "--time_limit", "5", "--out", str(tmp_path)]) == 0
    assert "mbpp, feedback visible: solved, 2 of 2 chains" in capsys.readouterr().out
    found = results(tmp_path)["mbpp visible"]
    assert found["methods"]["intervenor"]["cost"]["prompted"] > 100, "tokens of prompts are counted"
    assert found["identity"]["learner"]["writer"]["backend"] == "transformers"
