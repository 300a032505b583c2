"""Training on a shared emulator holds the kept layers and what training needs, measured in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.studies.crash import memory
from tests import forking

LAYERS, KEEP, TRAIN, WIDTH = 16, 4, 2, 384
MIB = 2**20


@pytest.mark.slow
def test_the_peak_is_that_of_kept_layers_and_activations(tmp_path: Path) -> None:
    memory.write(tmp_path, LAYERS, KEEP, TRAIN, WIDTH)
    words = ["-m", "benchmarks.studies.crash.memory", "--folder", str(tmp_path), "--what"]
    found = {
        what: json.loads(forking.run([*words, what], check=True).stdout.splitlines()[-1])
        for what in ("full", "repeat-non-trainable", "repeat-all")
    }
    layer = 4 * (4 * WIDTH**2 + 3 * WIDTH * (8 * WIDTH // 3) + 2 * WIDTH)
    removed = (LAYERS - KEEP) * layer
    full, shared, everywhere = found.values()
    assert full["weights"] - shared["weights"] == removed
    assert everywhere["weights"] - shared["weights"] == TRAIN * layer, "frozen copies of the trained layers"
    assert full["training"] == shared["training"] == everywhere["training"] == 3 * TRAIN * layer
    assert shared["activations"] == pytest.approx(full["activations"], rel=0.05), "every place keeps its own"
    needed = {name: what["weights"] + what["training"] + what["activations"] for name, what in found.items()}
    beside = full["peak"] - needed["full"]  # AdamW's temporary results, and modules that are imported on the way
    assert 0 < beside < 80 * MIB, found
    for name, what in found.items():
        assert needed[name] < what["peak"] <= needed[name] + beside + 12 * MIB, found
    assert full["peak"] - shared["peak"] >= 0.8 * removed, found
