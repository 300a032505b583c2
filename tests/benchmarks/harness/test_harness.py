"""The harness: wrong results are refused, samples interleave, ties are named, memory is seen, pages are made of results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import report, run
from benchmarks.harness.profiling import profile_step, summarise
from benchmarks.harness.registry import Benchmark, Settings, Step, Workload, largest_error, norm_error
from benchmarks.harness.sampling import interleave, percentile, summary, tied, whole_time
from benchmarks.suite import all_benchmarks

X = torch.linspace(-1, 1, 64)


def step(factor: float = 2.0, calls: list | None = None) -> Step:
    return Step(
        lambda: None if calls is None else calls.append(factor),
        lambda: {"y": X * factor},
        lambda: {"y": X.double() * 2},
        slack=1e-6,
    )


def toy(calls: list) -> Benchmark:
    contenders = {
        "frozen": lambda base: step(2.0),
        "wrong": lambda base: step(2.1, calls),
        "nan": lambda base: step(float("nan"), calls),
        "broken": lambda base: 1 / 0,
        "absent": "needs a GPU",
        "fulgurite": lambda base: step(2.0),
    }
    return Benchmark(
        "toy",
        "A toy.",
        lambda settings: [Workload("one", {"n": 64}, lambda: None, contenders, memory=False)],
        largest_error,
    )


@pytest.fixture
def outcome(monkeypatch, tmp_path):
    calls: list = []
    monkeypatch.setattr(run, "all_benchmarks", lambda: {"toy": toy(calls)})
    status = run.main(["toy", "--json", str(tmp_path / "toy.json"), "--profile"])
    return status, json.loads((tmp_path / "toy.json").read_text()), calls


@pytest.mark.slow
def test_a_wrong_result_has_no_speed(outcome):
    status, figures, calls = outcome
    rows = figures["workloads"][0]["contenders"]
    assert status == 1 and not calls
    for name in ("wrong", "nan", "broken"):
        assert rows[name]["wrong"] and "median_ms" not in rows[name]
    assert "ZeroDivisionError" in rows["broken"]["why"]
    assert rows["absent"] == {"not_run": "needs a GPU"}


@pytest.mark.slow
def test_results_carry_samples_and_machine(outcome):
    _, figures, _ = outcome
    ours = figures["workloads"][0]["contenders"]["fulgurite"]
    assert len(ours["samples_ms"]) == 20
    assert ours["p20_ms"] <= ours["median_ms"] <= ours["p80_ms"]
    assert {"commit", "versions", "device_name", "threads", "date", "load_before", "load_after"} <= figures.keys()
    assert figures["versions"]["torch"] == torch.__version__.split("+")[0] or "torch" in figures["versions"]


@pytest.mark.slow
def test_the_page_is_made_of_results(outcome, tmp_path):
    _, figures, _ = outcome
    (tmp_path / "study.json").write_text(json.dumps({"study": "other"}))
    (tmp_path / "toy_old.json").write_text(json.dumps({**figures, "date": "2000-01-01", "about": "Old."}))
    (found,) = report.newest(tmp_path)
    text = report.page([found])
    assert found["about"] == "A toy." and "| **fulgurite** |" in text
    assert "absent (needs a GPU)" in text and "wrong (WRONG" in text
    report.picture(found, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_run_of_some_workloads_leaves_the_others_standing(outcome, tmp_path):
    _, figures, _ = outcome
    other = {**figures["workloads"][0], "name": "another shape"}
    old = {**figures, "date": "2000-01-01", "commit": "abc", "workloads": [*figures["workloads"], other]}
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "toy_2000.json").write_text(json.dumps(old))
    for only, names in (
        (None, [figures["workloads"][0]["name"]]),
        ("x", [figures["workloads"][0]["name"], other["name"]]),
    ):
        (folder / "toy_new.json").write_text(json.dumps({**figures, "only": only}))
        (found,) = report.newest(folder)
        assert [workload["name"] for workload in found["workloads"]] == names
    assert "Measured 2000-01-01, commit abc." in report.page([found])


def test_the_page_names_what_waits_for_a_gpu(monkeypatch):
    names = {"first": ["old", "fulgurite"], "second": ["old", "new", "fulgurite"], "third": ["fulgurite"]}
    workloads = [Workload(name, {}, dict, dict.fromkeys(contenders, "")) for name, contenders in names.items()]
    benchmark = Benchmark("toy", "A toy.", lambda settings: workloads, largest_error)
    monkeypatch.setattr(report, "all_benchmarks", lambda: {"toy": benchmark})
    rows = [{"name": name, "contenders": {"old": {}, "fulgurite": {}}} for name in ("first", "second")]
    measured = {"benchmark": "toy", "device": "cuda", "workloads": rows}
    assert report.waiting([measured]) == ["- toy: second (new); third"]
    assert report.waiting([{**measured, "device": "cpu"}]) == ["- toy: first; second; third"]
    assert "`python -m benchmarks.gpu`" in report.page([], report.waiting([measured]))


def test_older_results_keep_their_place_under_a_new_name(tmp_path):
    rows = {"TRL selective_log_softmax": {"median_ms": 1.0}}
    older = {
        "benchmark": "log_probs",
        "device": "cpu",
        "date": "2026-11-22",
        "workloads": [{"name": "a", "contenders": rows}],
    }
    (tmp_path / "log_probs.json").write_text(json.dumps(older))
    assert list(report.newest(tmp_path)[0]["workloads"][0]["contenders"]) == ["TRL before 1.14"]


def test_gaps_and_waits_of_a_profiled_step():
    """Two kernels overlap, one comes after a gap; what the profiler waits for outside of the step does not count."""

    def event(name, start, end, device="CPU"):
        span = SimpleNamespace(start=start, end=end)
        return SimpleNamespace(name=name, time_range=span, device_type=getattr(torch.autograd.DeviceType, device))

    events = [
        event("fulgurite step", 100, 400), event("fulgurite step", 150, 900, "CUDA"),
        event("cudaLaunchKernel", 110, 120), event("cuLaunchKernelEx", 130, 140), event("cudaStreamSynchronize", 150, 390),
        event("cudaDeviceSynchronize", 410, 950), event("cudaLaunchKernel", 10, 20),
        event("one", 200, 300, "CUDA"), event("two", 250, 350, "CUDA"), event("Memcpy HtoD", 600, 700, "CUDA"),
    ]  # fmt: skip
    found = summarise(events)
    assert found == {
        "kernels": 2, "launches": 2, "synchronisations": 1, "host_ms": 0.3, "busy_ms": 0.25, "gap_ms": 0.25
    }  # fmt: skip


def test_contenders_are_sampled_in_turn():
    calls: list[str] = []
    taken = interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 20, "cpu", warmup=1)
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert len(rounds) == 21 and all(sorted(r) == ["a", "b", "c"] for r in rounds)
    assert len({tuple(r) for r in rounds}) > 1
    assert all(len(samples) == 20 for samples in taken.values())


def test_statistics():
    assert [percentile([4.0, 1.0, 3.0, 2.0, 5.0], q) for q in (0, 20, 50, 80, 100)] == [1.0, 1.8, 3.0, 4.2, 5.0]
    # The floor drifts; the ratio is taken round by round.
    figures = summary([2.0, 4.0, 20.0], [1.0, 2.0, 10.0])
    assert figures["ratio"] == figures["ratio_p20"] == figures["ratio_p80"] == 2.0
    slow = {"median_ms": 10.0, "p20_ms": 9.0, "p80_ms": 11.0}
    assert tied(slow, {"median_ms": 9.5, "p20_ms": 9.4, "p80_ms": 9.6})
    assert not tied(slow, {"median_ms": 8.0, "p20_ms": 7.0, "p80_ms": 8.5})
    assert whole_time({"a": [1.0] * 30}, slices=3)["a"] == [30.0, 30.0, 30.0]


def test_errors_that_hide_nothing():
    truth = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([0.0])}
    assert largest_error({"a": torch.tensor([1.0, 2.2]), "b": torch.zeros(1)}, truth) == pytest.approx(0.1)
    assert largest_error({"a": truth["a"]}, truth) == float("inf")
    assert norm_error(dict(truth), truth) == 0 and norm_error({"a": truth["a"]}, truth) == float("inf")
    assert norm_error({"a": torch.tensor([float("nan"), 2.0]), "b": torch.zeros(1)}, truth) == float("inf")


def test_too_few_samples_and_unknown_names_are_refused(capsys):
    for arguments, words in ((["--samples", "5"], "at least 20"), (["nothing"], "known are linear")):
        with pytest.raises(SystemExit):
            run.main(arguments)
        assert words in capsys.readouterr().err


def test_peak_memory_counts_what_the_step_holds():
    """64 MiB held in the step and not before it; the base's 32 MiB do not count. In a process without freed memory to reuse."""
    script = """
import torch
from benchmarks.memory import peak_of_step
from benchmarks.harness.registry import Step
print(peak_of_step(lambda: torch.ones(8 << 20), lambda base: Step(lambda: torch.ones(16 << 20).sum(), dict, dict), "cpu"))
"""
    root = Path(__file__).resolve().parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=root, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert 60 * 2**20 < int(done.stdout) < 90 * 2**20


def test_profile_counts_operators_bytes_and_waits():
    x, mask = torch.ones(1000), torch.ones(1000, dtype=torch.bool)
    counted = profile_step(lambda: (x + x).view(10, 100), "cpu")
    assert counted["operators"] == 1 and counted["bytes"] == 3 * 4000 and counted["synchronisations"] == 0
    assert profile_step(lambda: x[mask].sum().item(), "cpu")["synchronisations"] == 2


def test_every_entry_names_its_workloads_and_ours():
    for device in ("cpu", "cuda"):
        for name, benchmark in all_benchmarks().items():
            workloads = benchmark.workloads(Settings(device))
            assert workloads and benchmark.samples >= 20, name
            assert len({w.name for w in workloads}) == len(workloads)
            for workload in workloads:
                assert list(workload.contenders)[-1] == "fulgurite"
