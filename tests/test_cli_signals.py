"""Signals that end a command: exit codes, what is said, what is left, and whose handlers stay."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fulgurite.cli import main

# A command that is interrupted, in a process that takes its time to end.
_SLOW_END = """
import atexit, sys, time
from fulgurite import cli

def interrupted(verb, rest):
    raise KeyboardInterrupt

@atexit.register
def slow():
    print("ending", flush=True)
    time.sleep(20)

cli._dispatch = interrupted
sys.argv = ["fulgurite", "score"]
sys.exit(cli.main())
"""


def test_a_second_interrupt_ends_at_once_and_prints_nothing() -> None:
    """Python's own handler printed the traceback of its exit functions."""
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _SLOW_END], **pipes) as command:
        assert command.stdout is not None and command.stdout.readline() == "ending\n"
        began = time.monotonic()
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=60)
    assert (command.returncode, said) == (-signal.SIGINT, "fulgurite: error: interrupted\n")
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGHUP, 129, "the terminal was closed")],
)
def test_a_signal_ends_a_command_with_its_code_and_leaves_no_temporary_file(
    sent: signal.Signals,
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In fit and test Lightning handles SIGTERM from the first step on (tests/commands/fit/test_run_config.py)."""
    from fulgurite.commands.score import command
    from fulgurite.whole_files import whole_file

    def slow(model: str, file: str) -> None:
        with whole_file(tmp_path / "out") as scratch:
            scratch.write_text("half")
            os.kill(os.getpid(), sent)
            time.sleep(10)

    monkeypatch.setattr(command, "score", slow)
    before = signal.signal(sent, signal.SIG_DFL)  # the tests may have been started under nohup
    try:
        assert main(["score", "--model", "a", "--file", "b"]) == code
        assert capsys.readouterr().err == f"fulgurite: error: {said}\n"
        assert list(tmp_path.iterdir()) == [] and signal.getsignal(sent) == signal.SIG_DFL
    finally:
        signal.signal(sent, before)


def test_lightnings_own_end_by_sigterm_has_the_same_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Within fit, validate, test and predict Lightning takes the signal and raises this, which exited with 0."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    from fulgurite.commands.fit import trainer

    def ended(words: list[str]) -> None:
        raise SIGTERMException

    monkeypatch.setattr(trainer, "run_trainer_verb", ended)
    for verb in ("fit", "validate", "test", "predict"):
        assert main([verb]) == 143
        assert capsys.readouterr().err == "fulgurite: error: terminated\n"


def test_signals_that_somebody_handles_or_ignores_stay_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """nohup ignores SIGHUP; a program that embeds the command may have its own SIGTERM."""
    from fulgurite.commands.score import command

    seen: list[Any] = []

    def look(model: str, file: str) -> None:
        seen.extend(map(signal.getsignal, (signal.SIGHUP, signal.SIGTERM)))

    monkeypatch.setattr(command, "score", look)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN), signal.signal(signal.SIGTERM, print)
    try:
        assert main(["score", "--model", "a", "--file", "b"]) == 0
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before[0])
        signal.signal(signal.SIGTERM, before[1])
    assert seen == [signal.SIG_IGN, print]
