"""The measurement beside PEFT: both contenders train the same factors and follow the same losses."""

from __future__ import annotations

import sys

import pytest

from benchmarks.studies.experts import CONTENDERS, measure


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_both_contenders_follow_the_same_losses() -> None:
    pytest.importorskip("peft", minversion="0.19")
    modeling = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    if not hasattr(modeling, "MixtralExperts"):
        pytest.skip("this version of transformers keeps experts as linear layers")
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_local_experts": 4,
        "num_hidden_layers": 2,
        "vocab_size": 64,
    }
    found = [measure(contender, 24, 3, sizes) for contender in CONTENDERS]
    assert found[0]["losses"] == pytest.approx(found[1]["losses"], rel=1e-4)
    assert found[0]["trained"] == found[1]["trained"] == 2 * 4 * 8 * (32 + 96 + 48 + 32)
    assert len({round(loss, 3) for loss in found[0]["losses"]}) == 3 and found[0]["seconds"] > 0
