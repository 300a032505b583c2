"""Verbs without their models, and signals that come at one of their calls: the helpers of test_signals.py."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import fulgurite.commands.evaluate.command as evaluate_command
import fulgurite.commands.generate.command as generate_command
import fulgurite.commands.generate.file as generate_file
import fulgurite.commands.repair.command as repair_command
import fulgurite.commands.score.command as score_command
import fulgurite.commands.thresholds.command as thresholds_command
from fulgurite.cli import main
from fulgurite.commands.thresholds.processes import run_all
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.runner.writers import Writers
from tests.acceptances.said import rows_file
from tests.commands.landscape.test_command import changed
from tests.evaluation.repair.fakes import Scripted, row, rule, run_here
from tests.evaluation.runner.fakes import FakeBackend

TERM, INT, HUP = signal.SIGTERM, signal.SIGINT, signal.SIGHUP
SAID = {
    TERM: (143, "terminated"),
    INT: (130, "interrupted"),
    HUP: (129, "the terminal was closed"),
}


class Sent:
    """In place of a function: at one of its calls the signal comes; all others are its own."""

    def __init__(self, sent: signal.Signals, call: int, function: Callable[..., Any]) -> None:
        self.sent, self.call, self.function, self.calls = sent, call, function, 0

    def __call__(self, *given: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            os.kill(os.getpid(), self.sent)
            time.sleep(20)  # which the signal ends
        return self.function(*given, **named)


def stopped(words: list[str], sent: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    """Runs a command that is stopped, and looks at its status and at what it says."""
    capsys.readouterr()
    code, said = SAID[sent]
    begun = time.monotonic()
    assert main([str(word) for word in words]) == code
    error = capsys.readouterr().err
    assert error.strip().splitlines()[-1] == f"fulgurite: error: {said}" and "Traceback" not in error, error
    assert time.monotonic() - begun < 15, "it ends at once"


def generate_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    loaded = SimpleNamespace(model=None, tokenizer=SimpleNamespace(chat_template=None), conditions=None)
    monkeypatch.setattr(generate_command, "load_model", lambda *_: loaded)
    monkeypatch.setattr(generate_file, "check_prompts", lambda *_: None)
    monkeypatch.setattr(generate_file, "generate_text", lambda m, t, prompts, s: [[p[-1].content * 2] for p in prompts])
    source = rows_file(folder / "in.jsonl", [{"prompt": f"number {i}"} for i in range(6)])
    return ["generate", "--model", "m", "--file", source, "--output", folder / "out" / "a.jsonl", "--batch_size", "1"]


class FakeScorer:
    """Rewards by length; four at a time."""

    def __init__(self) -> None:
        self.model, self.batch_size, self.omitted = nn.Linear(1, 1), 1, {}
        self.tokenizer, self.reads_behind_the_turn = SimpleNamespace(chat_template=None), False

    def score(self, conversations: Any) -> Iterator[list[Any]]:
        for at in range(0, len(conversations), 4):
            yield [(float(len(c.turns[-1].content)), 1) for c in conversations[at : at + 4]]


def score_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(score_command, "load_reward_scorer", lambda *_: FakeScorer())
    monkeypatch.setattr(score_command, "reads_chats", lambda *_: False)
    monkeypatch.setattr(score_command, "check_folder", lambda *_: None)
    source = rows_file(folder / "in.jsonl", [{"prompt": "a", "completion": "b" * (i + 1)} for i in range(12)])
    return ["score", "--model", "m", "--file", source, "--output", folder / "out" / "a.jsonl"]


def evaluate_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    backend = FakeBackend(lambda prompt, index: f"#### {len(prompt) % 7}")
    monkeypatch.setattr(evaluate_command, "load_model", lambda *_: None)
    monkeypatch.setattr(evaluate_command, "in_process", lambda *_: Writers(backend, None))
    return [
        "evaluate",
        "--model",
        "m",
        "--tasks",
        "gsm8k",
        "--path",
        "builtin",
        "--limit",
        "6",
        "--out",
        folder / "out",
    ]


def repair_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    monkeypatch.setattr(repair_command, "load_model", lambda *_: SimpleNamespace(model=None))
    monkeypatch.setattr(repair_command, "in_process", lambda *_: Writers(Scripted(rule, "m"), None))
    monkeypatch.setattr(judging, "run_jobs", run_here)
    rows = rows_file(folder / "rows.jsonl", [row(number) for number in range(4)])
    words = ["repair", "--model", "m", "--tasks", "humaneval", "--path", rows, "--turns", "2", "--out", folder / "out"]
    return [*words, "--baselines", "false"]


def landscape_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    first = changed(folder / "first", 1)
    words = [
        "landscape",
        "--base",
        "playground",
        "--first",
        first,
        "--rows",
        "builtin",
        "--limit",
        "2",
        "--points",
        "3",
    ]
    return [*words, "--device", "cpu", "--out", folder / "out"]


def thresholds_words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    def work(run: Any, settings: Any) -> dict[str, Any]:
        kept = {name: getattr(run, name) for name in ("backbone", "method", "budget", "seed")}
        return {
            **kept,
            "tunable": run.budget,
            "head": 0,
            "seconds": 0.0,
            "metric": "accuracy",
            "value": 0.5,
            "loss": 1.0,
        }

    monkeypatch.setattr(
        thresholds_command, "run_all", lambda runs, settings, out, _: run_all(runs, settings, out, 1, WORK[0])
    )
    WORK[:] = [work]
    words = ["thresholds", "--out", folder / "out", "--budgets", "[4, 8]", "--seeds", "[0]", "--floor", "guess"]
    return [*words, "--workers", "1"]


WORK: list[Callable[..., Any]] = []
