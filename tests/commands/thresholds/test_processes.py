"""The processes of a sweep end with it, at once, however it ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fulgurite.commands.thresholds.processes import run_all
from fulgurite.commands.thresholds.runs import Run, Settings
from tests import forking
from tests.commands.thresholds.test_command import settings


def endless(run: Run, options: Settings) -> dict[str, Any]:
    """Says which process it is, and never ends."""
    Path(options.path, f"{run.seed}.pid").write_text(str(os.getpid()))
    while True:
        time.sleep(0.1)


_SWEEP = """
import sys
from pathlib import Path

from fulgurite.commands.thresholds.processes import run_all
from fulgurite.commands.thresholds.runs import Run
from tests.commands.thresholds.test_command import settings
from tests.commands.thresholds.test_processes import endless

if __name__ == "__main__":
    runs = [Run("playground", "lora", 4, seed) for seed in (0, 1)]
    list(run_all(runs, settings(path=sys.argv[1]), Path(sys.argv[1]), 2, endless))
"""


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[forking.Forked]:
    """A sweep of two runs that never end."""
    (tmp_path / "sweep.py").write_text(_SWEEP)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    with (tmp_path / "told").open("w") as told:
        sweep = forking.popen([str(tmp_path / "sweep.py"), str(tmp_path)], environment, stderr=told)
    try:
        _wait(lambda: len([p for p in tmp_path.glob("*.pid") if p.read_text()]) == 2, 120)
        yield sweep
    finally:
        sweep.kill()
        sweep.wait()
    pids = [int(p.read_text()) for p in tmp_path.glob("*.pid")]
    _wait(lambda: not any(map(_running, pids)), 30)


@pytest.mark.slow
def test_a_killed_sweep_takes_its_processes_along(sweep: forking.Forked) -> None:
    sweep.kill()


@pytest.mark.slow
def test_an_interrupted_sweep_ends_at_once(sweep: forking.Forked, tmp_path: Path) -> None:
    sweep.send_signal(signal.SIGINT)
    sweep.wait(timeout=15)  # it took the rest of the runs before
    assert (tmp_path / "told").read_text().strip().endswith("KeyboardInterrupt")


@pytest.mark.slow
def test_a_killed_process_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        RuntimeError, match=r"a process of the sweep was killed.*same command again, with fewer --workers"
    ):
        list(run_all([Run("playground", "lora", 4, seed) for seed in (0, 1)], settings(), tmp_path, 2, killed))


def killed(run: Run, options: Settings) -> dict[str, Any]:
    """As the system does where memory is short."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("never reached")


def _wait(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.1)
