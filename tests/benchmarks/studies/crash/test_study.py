"""The study of CRaSh on the playground's model: lines that a second run does not make again, the full model left as it was, and the
table's arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.studies.crash import arms, study
from benchmarks.studies.crash.summary import interval, order, summarise, table
from tests.commands.emulate.test_command import QUESTIONS, lines


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the study's files of one task, and one kind of sharing to try."""
    monkeypatch.setattr(arms, "SHARING", ("repeat-all",))
    monkeypatch.setattr(study, "TASKS", {"arc_easy": arms.TASKS["arc_easy"]})
    (tmp_path / "arc").mkdir()
    for name in arms.TASKS["arc_easy"]:
        lines(tmp_path / name, QUESTIONS)
    return tmp_path


@pytest.mark.slow
def test_every_arm_is_a_line_and_is_not_run_again(rows: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--model", "playground", "--out", str(rows / "out"), "--rows_in", str(rows), "--keep", "3", "--train", "2"]
    words += ["--steps", "2", "--batch", "4", "--rate", "1e-3", "--json", str(rows / "found.json")]
    study.main([*words, "--seeds", "0"])
    assert "| zero-shot |" in capsys.readouterr().out
    file = rows / "out" / "arms.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert [record["kind"] for record in found] == ["zero-shot", *["before", "tuned"] * 2, "full fine-tuning"]
    zero, _, crash, _, uniform, full = found
    assert len({record["model"]["mean_loss"] for record in (zero, full, crash)}) == 3
    assert {path.name for path in (rows / "out" / "models").iterdir()} == {
        "base",
        "arc_easy-full",
        "arc_easy-3-crash-repeat-all",
    }
    assert json.loads((rows / "found.json").read_text())["arms"] == found
    file.write_text("".join(line + "\n" for line in file.read_text().splitlines()[:-2]))
    ran: list[arms.Arm] = []
    run = arms.Bench.run
    monkeypatch.setattr(arms.Bench, "run", lambda self, arm, **kw: (ran.append(arm), run(self, arm, **kw))[1])
    study.main([*words, "--seeds", "0"])
    assert [arm.kind for arm in ran] == ["tuned", "full fine-tuning"]
    again = [json.loads(line)["model"] for line in file.read_text().splitlines()[-2:]]
    assert again == [uniform["model"], full["model"]], (
        "the same seed gives the same layers, the full model is as it was"
    )


def record(kind: str, right: str, seed: int = 0, method: str = "", task: str = "arc_easy") -> dict[str, Any]:
    loss = [1.0 if c == "1" else 2.0 for c in right]
    side = {"right": right, "loss": loss, "mean_loss": float(np.mean(loss))}
    own = {
        "task": task,
        "kind": kind,
        "seed": seed,
        "keep": 3 * bool(method),
        "method": method,
        "bytes": 1,
        "full_bytes": 2,
    }
    return {**own, "sharing": "choose" * bool(method), "emulator": side, "model": side}


def test_differences_are_paired_and_the_order_is_tested() -> None:
    found = [record("zero-shot", "0011" * 20)]
    for method, right in (("crash", "0111" * 20), ("uniform", "0010" * 20)):
        found += [record("before", "0000" * 20, method=method), record("tuned", right, 0, method)]
    found.append(record("tuned", "1111" * 20, 1, "crash"))  # without a partner: it has no part in the order
    said = {tuple(t["pair"]): t for t in order(found, 3, ["arc_easy"]) if t["measure"] == "accuracy"}
    assert said["crash", "uniform"]["difference"][0] == 50.0 and said["crash", "uniform"]["said"] == "holds"
    assert (
        said["uniform", "zero-shot"]["difference"][0] == -25.0
        and said["uniform", "zero-shot"]["said"] == "the opposite"
    )
    losses = {tuple(t["pair"]): t for t in order(found, 3, ["arc_easy"]) if t["measure"] == "loss"}
    assert losses["crash", "zero-shot"]["difference"][0] == -0.25 and losses["crash", "zero-shot"]["said"] == "holds"
    summary = summarise(found)
    line = next(one for one in summary["lines"] if one["name"] == "crash, choose")
    assert line["seeds"] == 2 and line["accuracy"][0] == 87.5 and line["gain"][0] == 37.5
    assert any("crash, choose" in row and "+37.5" in row for row in table(summary))


def test_an_interval_of_two_tasks_weighs_them_alike() -> None:
    mean, low, high = interval(np.zeros(50), np.full(30, 2.0))
    assert mean == low == high == 1.0
    mean, low, high = interval(np.array([0.0, 1.0] * 100))
    assert mean == 0.5 and low == pytest.approx(0.43, abs=0.01) and high == pytest.approx(0.57, abs=0.01)
