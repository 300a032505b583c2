"""The study of CPO runs end to end on a few rows and steps, and its report says what was found."""

from __future__ import annotations

import json

import pytest

from benchmarks.studies import cpo_playground as study
from fulgurite.data.playground.rows import levels


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        for split, count in (("train", 24), ("validation", 8), ("test", 4)):
            patch.setitem(levels._COUNTS, split, count)
        for name, value in (("FIRST_STEPS", 2), ("SECOND_STEPS", 2), ("QUESTIONS", 1)):
            patch.setattr(study, name, value)
        found = study.run(tmp_path_factory.mktemp("nothing"))
    return json.loads(json.dumps({**found, "machine": {"device": "here", "torch": "2"}}))


@pytest.mark.slow
def test_every_model_is_asked_and_compared_at_equal_steps(figures):
    models = figures["models"]
    assert list(models) == ["CPO", "CPSFT", "DPO", "SFT", "CPSFT before CDPO"]
    assert len(models["CPO"]["rows"]) == len(models["CPSFT"]["rows"]) == 3 + 6 and models["DPO"]["rows"] == []
    assert (
        len(models["CPO"]["points"]["helpfulness+honesty"]) == 26
        and len(models["SFT"]["points"]["helpfulness+honesty"]) == 1
    )
    assert not any(models["CPO"]["uncovered"].values()), "a front covers itself"
    assert all(0 <= share <= 1 for model in models.values() for share in model["hypervolume"].values())


def test_the_report_says_whether_targets_are_met(figures, tmp_path):
    for row in figures["models"]["CPO"]["rows"]:
        row["rho"] = 0.85
    figures["models"]["CPO"]["falls"][0][2] = 0.5
    figures["models"]["DPO"]["uncovered"]["helpfulness+honesty"] = [[5, 5]]
    study.report(figures, tmp_path)
    text = (tmp_path / "cpo_playground.md").read_text()
    assert "lowest | 0.850 | no |" in text and "two at once ≥ 0.8, lowest | 0.850 | yes |" in text
    assert "| a free objective falls by ≤ 5 % of its scale, mean of the levels (worst level) | 50.0 %" in text
    assert text.count("| no |") == 3
    assert (tmp_path / "cpo_playground.png").read_bytes().startswith(b"\x89PNG")
