"""Attempts with signals and closed streams: a verb is stopped in one of its phases, or nobody reads what it says.

The signal is sent from within, at a call that the phase makes, so that each attempt stops at the same place. What must follow: the
exit status (129, 130, 141 or 143), one line and no traceback, nothing half-written; and the same command again comes to what an
undisturbed one does.
"""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fulgurite.commands.control.command as control_command
import fulgurite.commands.emulate.command as emulate_command
import fulgurite.commands.evaluate.command as evaluate_command
import fulgurite.commands.export.command as export_command
import fulgurite.commands.generate.command as generate_command
import fulgurite.commands.generate.file as generate_file
import fulgurite.commands.landscape.command as landscape_command
import fulgurite.commands.plug_in.command as plug_in_command
import fulgurite.commands.repair.command as repair_command
import fulgurite.commands.scaling.command as scaling_command
import fulgurite.commands.score.command as score_command
from fulgurite.cli import main
from fulgurite.data.conditions.objectives import Objectives
from fulgurite.evaluation.judging.verdicts import TextJudge
from fulgurite.evaluation.repair import judging
from fulgurite.evaluation.runner.writers import Writers
from fulgurite.whole_files import whole_file
from tests.acceptances.said import csv_file, rows_file
from tests.acceptances.stopping import (
    HUP,
    INT,
    TERM,
    WORK,
    Sent,
    evaluate_words,
    generate_words,
    landscape_words,
    repair_words,
    score_words,
    stopped,
    thresholds_words,
)
from tests.evaluation.repair.fakes import row
from tests.evaluation.runner.fakes import FakeBackend


@pytest.fixture(autouse=True)
def as_a_shell_has_them() -> Iterator[None]:
    """The tests may have been started under nohup or beside a handler."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (TERM, HUP)}
    before[INT] = signal.signal(INT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def whole_lines(file: Path) -> list[dict[str, Any]]:
    text = file.read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


def hidden(folder: Path) -> list[str]:
    return [file.name for file in folder.rglob(".*")]


# ---- verbs that go on where they were stopped: the file that grows, and the command that is run again


RESUMED = [
    pytest.param(generate_words, (generate_file, "generate_text"), 2, TERM, "out/a.jsonl.part",
                 id="generate --file in its second chunk, by SIGTERM"),
    pytest.param(generate_words, (generate_file, "_line"), 9, INT, "out/a.jsonl.part",
                 id="generate --file while all answers are put in order, by Ctrl-C"),
    pytest.param(generate_words, (generate_file, "check_prompts"), 1, HUP, None, id="generate --file before an answer"),
    pytest.param(score_words, (score_command, "_line"), 6, TERM, "out/a.jsonl.part", id="score in its second batch"),
    pytest.param(score_words, (score_command, "_line"), 17, HUP, "out/a.jsonl.part", id="score while they are put in order"),
    pytest.param(evaluate_words, (TextJudge, "judge"), 1, TERM, "out/gsm8k/samples.jsonl", id="evaluate before its verdicts"),
    pytest.param(evaluate_words, (evaluate_command, "write_results"), 1, INT, "out/gsm8k/scores.jsonl",
                 id="evaluate before its results"),
    pytest.param(evaluate_words, (evaluate_command, "draw"), 1, HUP, "out/gsm8k/scores.jsonl", id="evaluate before its picture"),
    pytest.param(repair_words, (judging, "run_jobs"), 2, INT, "out/humaneval/visible/chains.jsonl",
                 id="repair before the second verdicts, by Ctrl-C", marks=pytest.mark.slow),
    pytest.param(repair_words, (repair_command, "write_rows"), 1, TERM, "out/humaneval/visible/chains.jsonl",
                 id="repair before its training data", marks=pytest.mark.slow),
    pytest.param(landscape_words, (landscape_command, "measure"), 2, TERM, "out/points.jsonl",
                 id="landscape at its second point", marks=pytest.mark.slow),
]  # fmt: skip


def left(folder: Path) -> dict[str, str]:
    """What lies in the output, without the moment and the time that a run took."""
    found = {}
    for file in sorted((folder / "out").rglob("*")):
        if file.is_file() and file.suffix != ".png":
            content = file.read_text()
            if file.name == "results.json":
                results = json.loads(content)
                content = json.dumps({"results": results["results"], "options": results["options"]})
            found[str(file.relative_to(folder))] = content.replace(str(folder), "")
    return found


@pytest.mark.parametrize(("make", "place", "call", "sent", "grows"), RESUMED)
def test_what_was_stopped_goes_on_to_the_same(
    make: Callable[[Path, pytest.MonkeyPatch], list[Any]], place: tuple[Any, str], call: int, sent: signal.Signals,
    grows: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where, name = place
    undisturbed = make(tmp_path / "undisturbed", monkeypatch)
    assert main([str(word) for word in undisturbed]) == 0, capsys.readouterr()
    words = make(tmp_path / "stopped", monkeypatch)
    with monkeypatch.context() as patched:
        function = getattr(where, name)
        sending = Sent(sent, call, function)
        patched.setattr(where, name, (lambda *a, **k: sending(*a, **k)) if isinstance(where, type) else sending)
        stopped(words, sent, capsys)
    assert hidden(tmp_path / "stopped") == []
    if grows is not None:
        assert whole_lines(tmp_path / "stopped" / grows), "what was there by then is kept"
    assert main([str(word) for word in words]) == 0, capsys.readouterr()
    assert left(tmp_path / "stopped") == left(tmp_path / "undisturbed")
    assert not list((tmp_path / "stopped").rglob("*.part"))


@pytest.mark.slow
def test_a_sweep_that_is_stopped_in_its_second_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*thresholds_words(tmp_path, monkeypatch), "--full_tuning", "false"]
    work = WORK[0]
    WORK[:] = [Sent(HUP, 2, work)]
    stopped(words, HUP, capsys)
    done = sorted(file.name for file in (tmp_path / "out" / "runs").iterdir())
    assert len(done) == 1 and hidden(tmp_path) == [] and not (tmp_path / "out" / "thresholds.json").exists()
    again = Sent(HUP, 99, work)
    WORK[:] = [again]
    assert main([str(word) for word in words]) == 0, capsys.readouterr()
    assert again.calls == 1, "the finished run is not run again"


# ---- verbs that write all at once: nothing is left


def objectives() -> Any:
    return SimpleNamespace(model=None, tokenizer=None, conditions=Objectives({"helpfulness": [1, 5]}))


AT_ONCE = [
    pytest.param(["emulate", "--model", "playground", "--support", "builtin", "--limit", "4", "--keep", "2", "--train", "2",
                  "--device", "cpu"], (emulate_command, "measure"), 1, TERM, id="emulate while layers are compared"),
    pytest.param(["emulate", "--model", "playground", "--method", "uniform", "--keep", "2", "--train", "2", "--device", "cpu"],
                 (emulate_command, "write_emulator"), 1, INT, id="emulate within its folder, by Ctrl-C"),
    pytest.param(["plug-in", "--model", "playground", "--ckpt_path", "x.ckpt"], (plug_in_command, "read_checkpoint"), 1, HUP,
                 id="plug-in while it reads"),
    pytest.param(["export", "--ckpt_path", "x.ckpt"], (export_command, "read_checkpoint"), 1, TERM, id="export while it reads"),
    pytest.param(["scaling", "--counts", "COUNTS"], (scaling_command, "study_of"), 1, INT, id="scaling in its bootstraps"),
    pytest.param(["control", "--model", "playground"], (control_command, "generate_text"), 1, TERM, id="control while it asks"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "place", "call", "sent"), AT_ONCE)
def test_nothing_is_left_of_what_is_written_at_once(
    words: list[str], place: tuple[Any, str], call: int, sent: signal.Signals,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    where, name = place
    counts = csv_file(tmp_path / "c.csv", "model,size,instance,n,c\ns,1M,a,10,3\nl,2M,a,10,5\n")
    monkeypatch.setattr(where, name, Sent(sent, call, getattr(where, name)))
    monkeypatch.setattr(control_command, "load_model", lambda *_: objectives())
    given = [counts if word == "COUNTS" else word for word in words]
    stopped([*given, "--out", str(tmp_path / "out")], sent, capsys)
    assert not (tmp_path / "out").exists() and hidden(tmp_path) == []


# ---- twice, and where something else holds the process


def test_a_second_signal_while_the_first_is_cleaned_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever is impatient gets the same status; the next run clears away what the second one left."""
    target = tmp_path / "out.jsonl"

    def twice(model: str, file: str) -> None:
        with whole_file(target) as scratch:
            scratch.write_text("half")
            try:
                os.kill(os.getpid(), TERM)
                time.sleep(20)
            finally:
                os.kill(os.getpid(), TERM)
                time.sleep(20)

    monkeypatch.setattr(score_command, "score", twice)
    stopped(["score", "--model", "a", "--file", "b"], TERM, capsys)
    with whole_file(target) as scratch:
        scratch.write_text("whole")
    assert [file.name for file in tmp_path.iterdir()] == ["out.jsonl"] and target.read_text() == "whole"


@pytest.mark.parametrize("sent", [TERM, INT])
def test_a_chat_at_its_prompt(
    sent: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C there ends the chat as /quit does; SIGTERM is an end by SIGTERM."""
    loaded = SimpleNamespace(model=None, tokenizer=SimpleNamespace(chat_template="x"), conditions=None)
    monkeypatch.setattr(generate_command, "load_model", lambda *_: loaded)
    monkeypatch.setattr("sys.stdin", io.StringIO("x"))
    monkeypatch.setattr("builtins.input", Sent(sent, 1, lambda _: "/quit"))
    assert main(["generate", "--model", "m", "--chat"]) == (0 if sent == INT else 143)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.slow
def test_a_server_that_never_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is waited for in a thread of its own, which ends with the command."""
    pytest.importorskip("openai")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        words = [
            "evaluate",
            "--server",
            address,
            "--served_model",
            "m",
            "--tasks",
            "gsm8k",
            "--path",
            "builtin",
            "--limit",
            "2",
        ]
        timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), TERM))
        timer.start()
        stopped([*words, "--out", str(tmp_path / "out")], TERM, capsys)
        timer.join()
    assert whole_lines(tmp_path / "out" / "gsm8k" / "samples.jsonl")[1:] == []


@pytest.mark.slow
def test_a_program_that_never_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sandbox is left as soon as its programs are, and nothing is said about them."""
    backend = FakeBackend(lambda prompt, index: "    while True:\n        pass\n")
    monkeypatch.setattr(evaluate_command, "load_model", lambda *_: None)
    monkeypatch.setattr(evaluate_command, "in_process", lambda *_: Writers(backend, None))
    rows = rows_file(tmp_path / "rows.jsonl", [row(0)])
    words = [
        "evaluate",
        "--model",
        "m",
        "--tasks",
        "humaneval",
        "--path",
        rows,
        "--out",
        tmp_path / "out",
        "--time_limit",
        "3",
    ]
    timer = threading.Timer(1.5, lambda: os.kill(os.getpid(), TERM))
    timer.start()
    stopped(words, TERM, capsys)
    timer.join()
    assert whole_lines(tmp_path / "out" / "humaneval" / "scores.jsonl")[1:] == []


# ---- outputs that nobody takes


class Gone:
    """Standard output whose reader has gone, as behind `| head -1`."""

    def __enter__(self) -> Any:
        reading, writing = os.pipe()
        os.close(reading)
        self.stream = open(writing, "w", encoding="utf-8")
        return self.stream

    def __exit__(self, *_: object) -> None:
        self.stream.close()


def spoken(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = SimpleNamespace(model=None, tokenizer=SimpleNamespace(chat_template=None), conditions=None)
    monkeypatch.setattr(generate_command, "load_model", lambda *_: loaded)
    monkeypatch.setattr(generate_command, "generate_text", lambda m, t, p, s, write=None: write("an answer"))


SPEAKING = [
    pytest.param(["--help"], id="the help"),
    pytest.param(["--version"], id="the version"),
    pytest.param(["evaluate", "--list"], id="the list of tasks"),
    pytest.param(["repair", "--list"], id="the tasks of repair"),
    pytest.param(["generate", "--model", "m", "--prompt", "a"], id="an answer"),
]


@pytest.mark.parametrize("words", SPEAKING)
def test_a_reader_that_has_gone(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken(monkeypatch)
    with Gone() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code = main(words)
        monkeypatch.undo()
    assert code == 141 and capsys.readouterr().err == "fulgurite: error: whoever read the output has gone\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
@pytest.mark.parametrize("words", SPEAKING)
def test_an_output_onto_a_full_disk(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoken(monkeypatch)
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        code = main(words)
        monkeypatch.undo()
    error = capsys.readouterr().err
    assert code == 1 and "No space left on device" in error and error.count("\n") == 1


@pytest.mark.parametrize("words", SPEAKING)
def test_an_output_that_is_closed(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``>&-``: Python then has no standard output at all."""
    spoken(monkeypatch)
    monkeypatch.setattr(sys, "stdout", None)
    code = main(words)
    monkeypatch.undo()
    assert code == 0 and capsys.readouterr().err == ""


def test_errors_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """``2>&-``: the status still tells."""
    monkeypatch.setattr(sys, "stderr", None)
    assert main(["generate", "--prompt", "a"]) == 1 and main(["no-such-verb"]) == 2
