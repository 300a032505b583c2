"""The playground's study: questions that no two splits share, arms that are not run again, intervals and tables."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from benchmarks.studies.rl import playground, summary
from benchmarks.studies.rl.playground import RATES, Arm, arms_of
from benchmarks.studies.rl.questions import distinct, pairs
from benchmarks.studies.rl.summary import (
    BASE,
    BEST,
    FINAL,
    PROXY,
    TRIAL,
    chosen_rate,
    interval,
    picture,
    summarise,
    table,
)
from fulgurite.data.playground.draw import SPLITS

FEW = 200  # resamples
STEPS = {"reward": [0.5, 0.7], "kl": [0.0, 0.2], "true": [0.5, 0.4], "drawing": [1.0, 1.0], "training": [1.0, 1.0]}


def examined(right: str, drawn: list[int]) -> dict[str, Any]:
    return {"right": right, "drawn_right": drawn, "drawn": 2}


def record(arm: Arm) -> dict[str, Any]:
    """Made-up figures of an arm: the second rate of each method is the best one."""
    if arm.phase == BASE:
        return {**asdict(arm), **examined("0011", [0, 1, 1, 1])}
    if arm.phase == BEST:
        scores = [[0.0, 1.0], [1.0, 0.0], [0.5, 0.6], [1.0, 2.0]]
        return {**asdict(arm), "tokens": 80, "rights": ["01", "01", "10", "11"], "scores": scores}
    right = "0111" if arm.phase != TRIAL or arm.rate == RATES[arm.method][1] else "0011"
    found: dict[str, Any] = {"kl": 0.1 * (arm.seed + 1), "tokens": 100, "seconds": 2.0, **examined(right, [1, 1, 2, 2])}
    if arm.phase == PROXY:
        found |= {"reward_accuracy": 0.8}
    return {**asdict(arm), **found, **({"steps": STEPS} if arm.method in playground.RL else {})}


def test_no_question_stands_in_two_splits_or_twice():
    found = {split: [row["question"] for row in distinct(split, 150)] for split in SPLITS}
    assert all(len(set(own)) == len(own) == 150 for own in found.values())
    assert len(set().union(*found.values())) == 450
    asked = {row["prompt"][0]["content"] for row in pairs(40)}
    assert not asked & {*distinct_questions("test"), *distinct_questions("validation")}


def distinct_questions(split: str) -> set[str]:
    return {row["question"] for row in distinct(split, 300)}


def test_pairs_differ_in_their_answer_alone():
    for row in pairs(20):
        chosen, rejected = row["chosen"], row["rejected"]
        assert chosen[0] == rejected[0] == row["prompt"][0] and chosen[1]["content"] != rejected[1]["content"]


def test_trials_decide_the_rates_and_every_method_has_as_many():
    assert len({len(rates) for rates in RATES.values()}) == 1
    records: list[dict[str, Any]] = []
    for arm in arms_of(records, [0, 1]):
        records.append(record(arm))
    assert all(chosen_rate(records, method) == rates[1] for method, rates in RATES.items())
    finals = [r for r in records if r["phase"] == FINAL]
    assert len(finals) == 2 * len(RATES) and all(r["rate"] == RATES[r["method"]][1] for r in finals)
    assert {r["beta"] for r in records if r["phase"] == PROXY} == set(playground.BETAS)


def test_the_tables_hold_means_differences_and_both_curves_of_the_reward_model(tmp_path, monkeypatch):
    monkeypatch.setattr(summary, "_DRAWS", FEW)
    records: list[dict[str, Any]] = []
    for arm in arms_of(records, [0, 1, 2]):
        records.append(record(arm))
    found = summarise(records)
    ppo = next(row for row in found["methods"] if row["method"] == "PPO")
    assert ppo["right"][0] == 75 and ppo["right_gain"][0] == 25 and ppo["drawn_right_gain"][0] == pytest.approx(37.5)
    assert ppo["most_kl"] == pytest.approx(0.3) and (ppo["reward_first"], ppo["reward_last"]) == (0.6, 0.6)
    assert [row["n"] for row in found["best"]] == [1, 2] and found["best"][0]["kl"] == 0
    assert found["best"][1]["checker"][0] == 100, "some answer to each question is right"
    assert found["best"][1]["model"][0] == 50, (
        "the reward model takes the right answer to the first and the last question"
    )
    assert found["proxy"][0]["true_last"] == pytest.approx(0.45)
    text = "\n".join(table(found))
    assert "| PPO | 0.001 | 75.0 [" in text and "| 2 | 80 |" in text and "- DPO: 0.0001: 50.0" in text
    picture(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_intervals_are_those_of_questions_and_of_seeds():
    rng = np.random.default_rng(1)
    alike = np.tile((rng.random(400) < 0.5).astype(float), (3, 1))
    mean, low, high = interval(alike)
    spread = 100 * 1.96 * float(np.sqrt(0.25 / 400))
    assert mean - low == pytest.approx(spread, rel=0.15) and high - mean == pytest.approx(spread, rel=0.15)
    apart = alike + np.array([[-0.2], [0.0], [0.2]])
    assert interval(apart)[2] - interval(apart)[1] > 1.5 * (high - low)


def test_finished_arms_are_not_run_again(tmp_path, monkeypatch, capsys):
    class Fake:
        def __init__(self, settings: Any, out: Any) -> None:
            pass

        def run(self, arm: Arm) -> dict[str, Any]:
            ran.append(arm)
            if len(ran) == 5 and not resumed:
                raise KeyboardInterrupt
            return {name: value for name, value in record(arm).items() if name not in asdict(arm) and name != "seconds"}

    ran: list[Arm] = []
    resumed = False
    monkeypatch.setattr(summary, "_DRAWS", FEW)
    monkeypatch.setattr(playground, "Bench", Fake)
    words = ["--out", str(tmp_path), "--seeds", "0", "--json", str(tmp_path / "found.json")]
    with pytest.raises(KeyboardInterrupt):
        playground.main(words)
    broken, resumed = ran[-1], True
    ran.clear()
    playground.main(words)
    assert ran[0] == broken and len(ran) + 4 == len(set(arms_of([record(a) for a in trials()], [0])))
    assert "| GRPO |" in capsys.readouterr().out
    assert json.loads((tmp_path / "found.json").read_text())["study"] == "rl_playground"
    ran.clear()
    playground.main(words)
    assert ran == []
    with pytest.raises(ValueError):
        playground.main([*words, "--tokens", "7"])


def trials() -> list[Arm]:
    return [Arm(TRIAL, method, rate, 0.0, 100) for method, rates in RATES.items() for rate in rates]


@pytest.mark.slow
def test_the_study_runs_from_end_to_end(tmp_path, monkeypatch, capsys):
    for name, rates in {"GRPO": (1e-3,), "rejection-sampling SFT": (1e-3,), "DPO": (1e-3,)}.items():
        monkeypatch.setitem(RATES, name, rates)
    for name in ("PPO", "RLOO"):
        monkeypatch.delitem(RATES, name)
    monkeypatch.setattr(playground, "BETAS", (0.05,))
    words = [
        "--out",
        str(tmp_path),
        "--seeds",
        "0",
        "--tokens",
        "300",
        "--prompts",
        "4",
        "--answers",
        "4",
        "--questions",
        "12",
    ]
    playground.main([*words, "--held_out", "6", "--chosen_on", "6", "--reward_pairs", "24", "--epochs", "1"])
    out = capsys.readouterr().out
    assert "| rejection-sampling SFT |" in out and "| best of n |" in out and "| 0.05 |" in out
    records = [json.loads(line) for line in (tmp_path / "arms.jsonl").read_text().splitlines()[1:]]
    trained = [r for r in records if r["phase"] in (TRIAL, FINAL, PROXY)]
    assert len(trained) == 7 and all(300 <= r["tokens"] < 700 and r["kl"] >= 0 for r in trained)
    proxy = trained[-1]["steps"]
    assert set(proxy["true"]) <= {i / 16 for i in range(17)} and proxy["true"] != proxy["reward"]
