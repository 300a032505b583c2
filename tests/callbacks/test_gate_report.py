"""Gate pictures and the report: colours mix by weight, pages escape what they show, tables and files hold the logged weights."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fulgurite.callbacks import GateReport
from fulgurite.callbacks.gate_picture import draw_gate_text, gate_colour, write_gate_html

NAMES = ["text", "code"]
ANSWERS = [
    ("Is 1 < 2 & 3?", [("yes", [0.75, 0.25]), (" <b>\n", [0.0, 1.0])]),
    ("What does $x$ cost?", [("\t$5 " + "long " * 40, [0.5, 0.5])]),
]


def test_colours_mix_by_weight() -> None:
    first, second = (int(gate_colour(w)[1:3], 16) for w in ([1.0, 0.0], [0.0, 1.0]))
    assert int(gate_colour([0.5, 0.5])[1:3], 16) == pytest.approx((first + second) / 2, abs=1)
    assert re.fullmatch("#[0-9a-f]{6}", gate_colour([0.2] * 5))


def test_the_page_shows_every_token_with_its_weights_and_escapes_it(tmp_path: Path) -> None:
    write_gate_html(ANSWERS, NAMES, tmp_path / "new" / "gate.html")
    page = (tmp_path / "new" / "gate.html").read_text()
    assert 'title="text 0.75, code 0.25">yes</span>' in page and f"background:{gate_colour([0.75, 0.25])}" in page
    assert "&lt;b&gt;" in page and "<b>" not in page and "Is 1 &lt; 2 &amp; 3?" in page
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["gate.html"]


def test_the_picture_holds_the_tokens_colours(tmp_path: Path) -> None:
    from matplotlib.image import imread

    draw_gate_text(ANSWERS, NAMES, tmp_path / "gate.png")
    found = {tuple(int(255 * v + 0.5) for v in pixel[:3]) for row in imread(tmp_path / "gate.png") for pixel in row}
    for weights in ([0.75, 0.25], [0.5, 0.5]):
        colour = gate_colour(weights)
        assert tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) in found


def trainer(folder: Path, metrics: dict[str, float]) -> Any:
    values = {name: torch.tensor(value) for name, value in metrics.items()}
    return SimpleNamespace(
        callback_metrics=values, is_global_zero=True, default_root_dir=str(folder), fast_dev_run=False
    )


def test_the_report_prints_and_draws_what_was_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"val_gate/maths/a": 0.125, "val_gate/maths/b": 0.875, "val_gate/none/a": float("nan"), "val_loss": 1.0}
    GateReport().on_fit_end(trainer(tmp_path, metrics), None)  # type: ignore[arg-type]
    told = capsys.readouterr().out
    assert "0.125" in told and "0.875" in told and "maths" in told and "none" not in told
    assert (tmp_path / "gate_weights.png").stat().st_size > 5000
    GateReport(str(tmp_path / "other")).on_test_end(trainer(tmp_path, metrics), None)  # type: ignore[arg-type]
    assert not (tmp_path / "other").exists(), "a test logs under another name"
