"""The pieces: they name what exists, the plan says what each decides, and the whole campaign runs at toy sizes on a CPU."""

from __future__ import annotations

import functools
import importlib
import json

import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu.campaign import Machine, Settings, in_process_of_its_own, run_pieces
from benchmarks.gpu.code import files_behind
from benchmarks.gpu.pieces import _FILES, all_pieces
from benchmarks.gpu.telling import summary
from benchmarks.harness import registry
from benchmarks.harness.registry import OURS
from benchmarks.suite import all_benchmarks


def options_of(piece, name):
    words = piece.command
    return [words[i + 1] for i, word in enumerate(words) if word == name]


@functools.cache
def workloads_of(name: str):
    """What a benchmark would run on a GPU; making it once takes seconds."""
    return registry.workloads(all_benchmarks()[name], registry.Settings("cuda"))


@pytest.mark.slow
def test_each_piece_is_short_and_what_it_names_exists():
    known = all_benchmarks()
    for piece in all_pieces():
        assert 0 < piece.seconds <= 60 and piece.why and piece.decides
        assert files_behind(piece.code)
        if "benchmarks.run" not in piece.command:
            continue
        name = piece.command[3]
        assert known[name].workloads.__module__ == f"benchmarks.speed.{_FILES[name]}"
        names = [workload.name for workload in workloads_of(name)]
        for text in options_of(piece, "--only"):
            assert any(text in each for each in names), (
                f"{piece.name}: no workload of {name} contains {text!r}: {names}"
            )


def test_goals_read_contenders_and_workloads_that_exist():
    """A goal over names that nobody writes would never be missed."""
    for piece in all_pieces():
        if not piece.goals:
            continue
        workloads = workloads_of(piece.command[3])
        only = options_of(piece, "--only")
        row = {"ratio": 0.5, "median_ms": 3.0, "peak_bytes": 3, "synchronisations": 0}
        figures = {
            "workloads": [
                {
                    "name": w.name,
                    "contenders": {c: {**row, "median_ms": 1.0} if c == OURS else row for c in w.contenders},
                }
                for w in workloads
                if not only or any(text in w.name for text in only)
            ]
        }
        for goal in piece.goals:
            assert goal.reads(figures) is not None, goal.text
            assert goal.reads({}) is None


def test_the_plan_is_printed_without_a_gpu_and_runs_nothing(capsys, tmp_path):
    assert command.main(["--dry-run", "--out", str(tmp_path), "--budget", "500"]) == 0
    said = capsys.readouterr().out
    for piece in all_pieces():
        assert f"{piece.name}, {piece.seconds} s at the most" in said and piece.decides in said
    assert "Budget: 500 s." in said and not list(tmp_path.iterdir())


def test_mistakes_in_the_call_are_said(capsys, tmp_path):
    assert command.main(["--dry-run", "--only", "linaer"]) == 2
    assert "there is no such piece; the pieces are sparse_gradient_1" in capsys.readouterr().err
    (tmp_path / "campaign.json").write_text('{"pieces": {}}')
    assert command.main(["--toy", "--only", "linear", "--out", str(tmp_path)]) == 2
    assert "add --resume" in capsys.readouterr().err
    assert command.main(["--resume", str(tmp_path / "no.json"), "--only", "linear", "--out", str(tmp_path)]) == 2
    assert "leave --resume out" in capsys.readouterr().err


def in_this_process(words, environment, seconds, log):
    """What ``python -m MODULE`` does, without the seconds of a new process's imports; pytest has one, once for equal commands."""
    module, arguments = words[2], list(words[3:])
    if module == "pytest":
        if "pytest" not in _ran:
            _ran["pytest"] = in_process_of_its_own(words, environment, seconds, log)
        return _ran["pytest"]
    status = importlib.import_module(module).main(arguments)
    log.write_text(f"{module} {arguments}")
    return status


_ran: dict[str, int | None] = {}


@pytest.mark.slow
@pytest.mark.exhaustive
def test_the_whole_campaign_runs_at_toy_sizes(tmp_path, monkeypatch):
    _ran.clear()
    monkeypatch.setenv("FULGURITE_CACHE", str(tmp_path / "cache"))
    pieces = all_pieces()
    settings = Settings(tmp_path / "campaign.json", toy=True)
    state = run_pieces(pieces, Machine({"device_name": "cpu", "versions": {}}), settings, launch=in_this_process)
    found = state["pieces"]
    bad = {
        name: (row["status"], row["why"], row.get("output")) for name, row in found.items() if row["status"] != "done"
    }
    assert not bad and list(found) == [piece.name for piece in pieces]
    for piece in pieces:
        figures = found[piece.name].get("figures", {})
        assert (figures != {}) == piece.figures
        assert not found[piece.name].get("wrong")
        for workload in figures.get("workloads", ()):
            assert workload["contenders"][OURS]["median_ms"] > 0
    lines = summary(pieces, json.loads((tmp_path / "campaign.json").read_text()))
    assert lines[-1] == "Nothing is left." and any("tokens/s" in line for line in lines)
    assert not any("goal" in line for line in lines)


def test_the_summary_names_goals_and_what_is_left():
    pieces = [piece for piece in all_pieces() if piece.name in ("linear", "gate", "gates")]
    rows = {OURS: {"median_ms": 2.0, "ratio": 1.2}, registry.PYTORCH: {"median_ms": 1.9, "ratio": 1.05}}
    figures = {"workloads": [{"name": "8192x4096x4096 r16 bf16 gate", "contenders": rows}]}
    state = {
        "toy": False,
        "pieces": {
            "linear": {"status": "done", "seconds": 12.0, "why": "", "figures": figures},
            "gate": {"status": "timed out", "seconds": 60.0, "why": "it was not done after 60 s"},
        },
    }
    text = "\n".join(summary(pieces, state))
    assert "goal reached: linear layer, the better of our ways over frozen is 1.05, wanted ≤ 1.1" in text
    assert f"{registry.PYTORCH} 0.95×" in text
    assert "gate (timed out: it was not done after 60 s)" in text and "gates (not run)" in text
    rows[registry.PYTORCH]["ratio"] = 1.2
    assert "goal MISSED" in "\n".join(summary(pieces, state))
    state["pieces"]["linear"]["figures"] = {}
    assert "goal not measured" in "\n".join(summary(pieces, state))


@pytest.mark.parametrize(
    "name", sorted({piece.command[3] for piece in all_pieces() if "benchmarks.run" in piece.command})
)
def test_a_benchmark_of_the_campaign_has_toy_workloads_with_the_same_contenders(name):
    benchmark = all_benchmarks()[name]
    toys = benchmark.workloads(registry.Settings("cpu", toy=True))
    known = {c for workload in benchmark.workloads(registry.Settings("cpu")) for c in workload.contenders}
    assert toys and all(set(workload.contenders) <= known for workload in toys)
