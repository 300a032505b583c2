"""The two APET studies turn their figures into pages and pictures; spreads and differences by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.studies import apet_sizes, apet_sst2

MACHINE = {"machine": {"device": "CPU", "torch": "2"}, "date": "2026-01-01", "rows": 8}


def test_apet_sst2_page(tmp_path):
    runs = []
    for method, budget, correct in (("full", 0, "1111"), ("uniform_scalar", 64, "1100"), ("head", 0, "1000")):
        for seed in (0, 1):
            text = correct if seed == 0 else correct[:-1] + "1"
            value = sum(map(int, text)) / 4
            extra = {"tunable": budget or 1000, "rate": 1e-3, "seconds": 1.0, "correct": text, "value": value}
            runs.append({"method": method, "budget": budget, "seed": seed, **extra})
    figures = {**MACHINE, "runs": runs, "selection": []}
    lines = {line["method"]: line for line in apet_sst2.summarise(figures)}
    assert lines["uniform_scalar"]["accuracy"] == pytest.approx(62.5)
    assert lines["uniform_scalar"]["difference"][0] == pytest.approx(-37.5), (
        "rows' means are 1, 1, 0, ½ against four ones"
    )
    apet_sst2.report(figures, tmp_path)
    page = (tmp_path / "apet_sst2.md").read_text()
    assert "| APET, random scalars | 64 | 64 | 62.50 ± 17.68 | -37.50 [" in page
    assert (tmp_path / "apet_sst2.png").stat().st_size > 5000


def test_apet_sizes_page(tmp_path):
    draws = np.random.default_rng(0)
    runs = []
    widths = list(apet_sizes.WIDTHS)
    for width, deviation in zip(widths, (0.04, 0.02, 0.0), strict=True):
        for task in apet_sizes.TASKS:
            for method, value in (("full", 0.9), ("head", 0.6)):
                runs.append({"width": width, "task": task, "method": method, "budget": 0, "value": value})
            for method, budget in apet_sizes.TASKS[task].cells:
                values = 0.7 + deviation * draws.standard_normal(len(apet_sizes.SEEDS))
                cell = {"width": width, "task": task, "method": method, "budget": budget}
                runs += [{**cell, "value": float(value)} for value in values]
    bases = [{"width": w, "parameters": 1000 * w, "val_loss": 1.0} for w in apet_sizes.WIDTHS]
    figures = {**MACHINE, "share": 1.0, "documents": 64, "bases": bases, "runs": runs}
    spread, low, high = apet_sizes.pooled(figures, widths[0], "uniform_scalar")
    cells = [
        [
            100 * r["value"]
            for r in runs
            if (r["width"], r["task"], r["budget"], r["method"]) == (widths[0], t, n, "uniform_scalar")
        ]
        for t in apet_sizes.TASKS
        for m, n in apet_sizes.TASKS[t].cells
        if m == "uniform_scalar"
    ]
    assert spread == pytest.approx(np.sqrt(np.mean([np.var(cell, ddof=1) for cell in cells])))
    assert low < 4.0 < high and low < spread < high
    apet_sizes.report(figures, tmp_path)
    assert "random scalars" in (tmp_path / "apet_sizes.md").read_text()
    assert (tmp_path / "apet_sizes.png").stat().st_size > 5000


def test_a_learning_rate_at_the_edge_is_followed_outward():
    cell = ("bitfit", 64)

    def tried(**values):
        return [{"method": cell[0], "budget": cell[1], "rate": float(r), "value": v} for r, v in values.items()]

    inner = tried(**{"2e-3": 0.7, "1e-2": 0.8})
    assert apet_sst2.next_rate(cell, inner) == [5e-2]
    inner += tried(**{"5e-2": 0.75})
    assert apet_sst2.next_rate(cell, inner) == []
    assert apet_sst2.best_rate(cell, inner) == 1e-2
    assert apet_sst2.next_rate(cell, tried(**{"2e-3": 0.8, "1e-2": 0.8})) == [4e-4]  # of equals the lowest
    assert apet_sst2.next_rate(cell, tried(**{"2.5e-1": 0.8, "1.25": 0.9})) == []  # the grid ends
