"""Many programs at a time: order, the report of each as it ends, timeouts that are run again, and that an interruption
leaves nothing.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fulgurite.sandbox import Job, Limits, Result, Sandbox, pool, run_many


def test_results_are_in_the_order_of_the_jobs() -> None:
    jobs = [Job(f"def f(): return {number}", "assert f() == 3") for number in range(6)]
    seen: list[tuple[int, str]] = []
    results = run_many(
        jobs, workers=3, sandbox=Sandbox(quiet=True), done=lambda number, result: seen.append((number, result.status))
    )
    assert [result.status for result in results] == ["failed"] * 3 + ["passed"] + ["failed"] * 2
    assert sorted(seen) == list(enumerate(result.status for result in results))


def test_cases_and_languages_are_jobs_too() -> None:
    results = run_many([Job("print(input())", cases=(("a", "a"),)), Job("print(1)", cases=(("", "2"),))])
    assert [result.status for result in results] == ["passed", "failed"]


def test_only_timeouts_are_run_again_alone_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def run(job: Job, sandbox: Sandbox) -> Result:
        calls.append(job.program)
        if job.program == "slow" and calls.count("slow") == 1:
            return Result("timeout")
        return Result("failed" if job.program == "wrong" else "passed")

    monkeypatch.setattr(pool.Job, "run", run)
    results = run_many([Job("slow"), Job("wrong"), Job("right")], workers=2, sandbox=object())  # type: ignore[arg-type]
    assert [(result.status, result.retried) for result in results] == [
        ("passed", True),
        ("failed", False),
        ("passed", False),
    ]
    assert calls[-1] == "slow" and len(calls) == 4
    assert [result.status for result in run_many([Job("slow")], sandbox=object(), retry=False)] == ["passed"]  # type: ignore[arg-type]


def _sleeping(marker: str) -> list[str]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdigit() and Path("/proc", name, "cmdline").read_bytes() == f"sleep\0{marker}\0".encode():
                found.append(name)
        except OSError:
            continue
    return found


def test_a_caller_that_is_killed_leaves_no_process() -> None:
    marker = str(7_000_000 + os.getpid())
    program = f"import subprocess\nsubprocess.Popen(['sleep', '{marker}'])\nwhile True: pass\n"
    script = f"from fulgurite.sandbox import Limits, Sandbox\nSandbox().run_tests({program!r}, 'f()', limits=Limits(seconds=60))\n"
    caller = subprocess.Popen(
        [sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    )
    deadline = time.monotonic() + 15
    while not _sleeping(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _sleeping(marker)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    while _sleeping(marker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _sleeping(marker) == []


def test_a_run_closes_what_it_opened() -> None:
    box = Sandbox(quiet=True)
    box.run_tests("def f(): return 1", "assert f() == 1")
    before, children = sorted(os.listdir("/proc/self/fd")), _children()
    for program in ("def f(): return 1", "import os\nos._exit(0)", "while True: pass"):
        box.run_tests(program, "assert f() == 1", limits=Limits(seconds=0.7))
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert _children() == children


def _children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
