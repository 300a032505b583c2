"""Floors by hand, and the page against what is committed."""

from __future__ import annotations

import pytest

from benchmarks import roofline
from benchmarks.harness.floors import COSTS, H200, Cost, Model, low_rank_passes, step_flops
from benchmarks.report import newest

RESULTS = newest(roofline.ROOT / "benchmarks" / "results")


def test_the_floor_is_the_longer_of_both_times():
    assert H200.floor_ms(Cost(989e9, 1.0)) == pytest.approx(1.0) and H200.bound(Cost(989e9, 1.0)) == "operations"
    assert H200.floor_ms(Cost(1.0, 4.8e9)) == pytest.approx(1.0) and H200.bound(Cost(1.0, 4.8e9)) == "bytes"
    assert H200.floor_ms(Cost(67e9, 1.0, float32=True)) == pytest.approx(1.0)


def test_costs_of_small_shapes_by_hand():
    linear = COSTS["linear"]({"m": 2, "k": 3, "n": 5, "rank": 1, "dtype": "bf16"})
    # Two products of 2·2·3·5, and six of 2·r·columns: t, y, u, ∂x, ∂A, ∂B.
    assert linear.flops == 120 + 3 * 2 * 2 * (3 + 5)
    # x twice and ∂x; y and ∂y; the weight twice.
    assert linear.bytes == 2 * (3 * 6 + 2 * 10 + 2 * 15)
    frozen = {"tokens": 2, "width": 3, "vocabulary": 7, "dtype": "fp32", "trained": False}
    assert COSTS["log_probs"](frozen) == Cost(2 * 84, 4 * (2 * 6 + 21), True)
    assert COSTS["log_probs"]({**frozen, "trained": True}) == Cost(3 * 84, 4 * (2 * 6 + 2 * 21), True)
    fusion = {"tokens": 2, "width": 3, "vocabulary": 7, "specialists": 3, "dtype": "bf16", "kind": "gate"}
    assert COSTS["fusion"](fusion) == Cost(3 * 84, 2 * (3 * 6 + 3 * 21))
    assert COSTS["fusion"]({**fusion, "kind": "shared"}) == Cost(2 * 84, 2 * (3 * 6 + 21))
    assert COSTS["sparse_gradient"]({"m": 2, "k": 4, "n": 5, "density": 0.1, "dtype": "bf16"}) == Cost(8, 36 + 24)
    assert COSTS["gates"]({"modules": 2, "rank": 4}).bytes == 7 * 4 * 8


def test_the_bytes_of_linear_are_those_that_the_benchmark_names():
    from benchmarks.harness.registry import Settings
    from benchmarks.speed import linear

    for workload in linear.BENCHMARK.workloads(Settings("cuda")):
        assert COSTS["linear"](workload.facts).bytes == workload.floor_bytes


def test_operations_of_a_step():
    model = Model(layers=1, width=4, intermediate=8, heads=2, kv_heads=1, vocabulary=10)
    weights = 4 * 4 + 2 * 4 * 2 + 4 * 4 + 3 * 4 * 8
    # Each weight forward and for the gradient of its input, but for the first three's, which nobody asks for.
    layers = 4 * 6 * weights - 2 * 6 * (4 * 4 + 2 * 4 * 2)
    attention = 3 * 2 * 4 * (2 * 2 + 4 * 4)
    assert step_flops(model, [2, 4], supervised=3, rank=0) == layers + attention + 4 * 3 * 4 * 10
    sides = 8 + 6 + 6 + 8 + 12 + 12 + 12
    assert step_flops(model, [2, 4], 3, rank=2) - step_flops(model, [2, 4], 3, rank=0) == 6 * 6 * 2 * sides


def test_passes_of_the_low_rank_branch():
    """Quoted in docs/decisions/kernels.md."""
    found = low_rank_passes(8192, 4096, 4096, H200, bandwidth=4.3e12)
    assert {name: round(micros) for name, micros in found.items()} == {
        "six launches": 94,
        "∂y read once": 78,
        "small terms inside the big products": 47,
    }


def test_the_committed_page_is_what_the_results_give():
    committed = (roofline.ROOT / "docs" / "roofline.md").read_text(encoding="utf-8")
    assert committed == roofline.page(RESULTS), "run python -m benchmarks.roofline"
    assert "waits for a GPU" in committed and "`python -m benchmarks.gpu`" in committed


def test_nothing_measured_is_faster_than_its_floor():
    """Else a floor counts what can be left out, or a benchmark does not compute what it says."""
    shares = [
        row["floor_ms"] / row["measured_ms"]
        for name in COSTS
        for row in roofline.rows(name, RESULTS)
        if row["measured_ms"] is not None
    ]
    assert len(shares) >= 10 and all(0 < share < 1 for share in shares)
