"""`fulgurite landscape` on the playground's model: the ends are the models' own losses, and a stopped run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from fulgurite.commands.emulate.measuring import measure
from fulgurite.commands.emulate.support import read_support
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.models import load_backbone

BASE = resolve_backbone("playground")


def changed(folder: Path, layer: int) -> str:
    model: Any = load_backbone(BASE, "causal_lm").model
    torch.manual_seed(layer)
    with torch.no_grad():
        for p in model.model.layers[layer].parameters():
            p.add_(torch.randn_like(p), alpha=0.05)
    model.save_pretrained(folder)
    return str(folder)


def loss_of(folder: str) -> float:
    rows = read_support("test", load_tokenizer("playground"), "builtin", limit=3)
    return measure(load_backbone(folder, "causal_lm").model, rows, 8).loss


def landscape(out: Path, *words: str) -> int:
    given = ["--base", "playground", "--rows", "builtin", "--limit", "3", "--out", str(out), "--device", "cpu"]
    return main(["landscape", *given, *words])


def test_a_line_and_a_run_that_goes_on(tmp_path: Path, capsys) -> None:
    first, out = changed(tmp_path / "first", 1), tmp_path / "out"
    assert landscape(out, "--first", first, "--points", "3") == 0, capsys.readouterr()
    found = json.loads((out / "landscape.json").read_text())["points"]
    assert [point["a"] for point in found] == [0.0, 0.5, 1.0] and len({point["loss"] for point in found}) == 3
    assert found[0]["loss"] == pytest.approx(loss_of(BASE), rel=1e-6)
    assert found[2]["loss"] == pytest.approx(loss_of(first), rel=1e-6)
    assert (out / "landscape.png").read_bytes().startswith(b"\x89PNG")
    lines = (out / "points.jsonl").read_text().splitlines()
    lines[3] = json.dumps({"a": 1.0, "b": 0.0, "loss": 123.0})  # what stands there is not measured again
    (out / "points.jsonl").write_text("\n".join(lines[:2] + lines[3:]) + "\n" + '{"a": 0.5, "b"')
    assert landscape(out, "--first", first, "--points", "3") == 0, capsys.readouterr()
    again = json.loads((out / "landscape.json").read_text())["points"]
    assert again[1] == found[1] and again[2]["loss"] == 123.0
    other = changed(tmp_path / "other", 2)
    assert landscape(out, "--first", other, "--points", "3") == 1
    assert "holds points of another identity" in capsys.readouterr().err


def test_a_plane(tmp_path: Path, capsys) -> None:
    first, second = changed(tmp_path / "first", 1), changed(tmp_path / "second", 3)
    words = ["--first", first, "--second", second, "--points", "2", "--low", "0", "--high", "1"]
    assert landscape(tmp_path / "out", *words) == 0, capsys.readouterr()
    found = {
        (p["a"], p["b"]): p["loss"] for p in json.loads((tmp_path / "out" / "landscape.json").read_text())["points"]
    }
    assert set(found) == {(a, b) for a in (0.0, 1.0) for b in (0.0, 1.0)}
    for place, folder in (((0.0, 0.0), BASE), ((1.0, 0.0), first), ((0.0, 1.0), second)):
        assert found[place] == pytest.approx(loss_of(folder), rel=1e-6)
    assert "the lowest loss" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--points", "1"], "points=1"),
        (["--low", "2"], "low below high"),
        (["--rows", "NOWHERE.jsonl"], "NOWHERE.jsonl"),
        ([], "have the same weights"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, capsys, words: list[str], said: str) -> None:
    assert landscape(tmp_path / "out", "--first", "playground", *words) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
