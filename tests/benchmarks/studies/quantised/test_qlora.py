"""The measurement beside PEFT: both contenders begin at the same weights and follow the same losses."""

from __future__ import annotations

import sys

import pytest

from benchmarks.studies.quantised.qlora import CONTENDERS, measure
from fulgurite.data.playground import resolve_backbone


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_both_contenders_follow_the_same_losses() -> None:
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("peft")
    found = [measure(c, resolve_backbone("playground"), "float32", 48, 3, c == "peft") for c in CONTENDERS]
    assert found[0]["losses"] == pytest.approx(found[1]["losses"], rel=1e-4)
    assert len({round(loss, 3) for loss in found[0]["losses"]}) == 3 and found[0]["seconds"] > 0
