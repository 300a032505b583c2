"""From a campaign's state to results files."""

from __future__ import annotations

import json

import pytest

from benchmarks.gpu.collecting import collect


def figures(only, *names, date="2026-12-01", device="cuda"):
    workloads = [{"name": name, "contenders": {}, "measured_on": date} for name in names]
    return {"benchmark": "linear", "device": device, "date": date, "only": only, "workloads": workloads}


def state(*found, toy=False):
    pieces = {str(i): {"status": "done", "figures": each} for i, each in enumerate(found)}
    pieces["tests"] = {"status": "done"}
    pieces["broken"] = {"status": "failed", "figures": figures(None, "never")}
    return {"toy": toy, "pieces": pieces}


def test_pieces_of_one_benchmark_make_one_file_and_the_newer_workload_stands(tmp_path):
    found = state(figures(["a"], "a", "c", date="2026-12-02"), figures(["b"], "b", "c"))
    (path,) = collect(found, tmp_path)
    assert path.name == "linear_cuda_2026-12-02.json"
    kept = json.loads(path.read_text())
    assert [(w["name"], w["measured_on"][-2:]) for w in kept["workloads"]] == [("b", "01"), ("a", "02"), ("c", "02")]
    assert kept["only"] == ["a", "b"]
    # A run of everything leaves nothing to older files.
    (path,) = collect(state(figures(None, "a")), tmp_path)
    assert json.loads(path.read_text())["only"] is None


def test_toy_sizes_and_other_devices_are_no_results(tmp_path):
    with pytest.raises(ValueError, match="toy sizes"):
        collect(state(figures(None, "a"), toy=True), tmp_path)
    with pytest.raises(ValueError, match="measured on cpu"):
        collect(state(figures(None, "a", device="cpu")), tmp_path)
    assert not list(tmp_path.iterdir())
