"""fulgurite thresholds: what the thresholds are, the plan, resuming, processes, the command in whole."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fulgurite.cli import main
from fulgurite.commands.thresholds.command import thresholds
from fulgurite.commands.thresholds.processes import run_all
from fulgurite.commands.thresholds.report import curves
from fulgurite.commands.thresholds.runs import Run, Settings, run_file, train

SMALL: dict[str, Any] = {"limit_train": 16, "limit_eval": 8, "max_steps": 2, "batch_size": 4, "max_length": 48}


def settings(**options: Any) -> Settings:
    values: dict[str, Any] = {
        "task": "sst2",
        "path": "builtin",
        "task_type": "causal_lm",
        "split": "val",
        "epochs": 1,
        "max_answer_length": 8,
        "learning_rate": 1e-2,
        "head_learning_rate": None,
        "full_learning_rate": 1e-3,
        "lr_schedule": "constant",
        "weight_decay": 0.0,
        "lora_targets": "all-linear",
        "dtype": "float32",
    }
    return Settings(**{**values, **SMALL, **options})


def fake(run: Run, options: Settings) -> dict[str, Any]:
    """Stands for a training: 0.5 + 0.1 per factor of 4, seed by seed; the largest budget diverges."""
    if run.budget == 64:
        raise FloatingPointError("the loss is nan.")
    steps = {1: 0, 4: 1, 16: 2}.get(run.budget, 4)
    value = 0.5 + 0.1 * steps + 0.01 * run.seed
    return {
        **run.__dict__,
        "tunable": run.budget or 1000,
        "head": 0,
        "seconds": 0.0,
        "metric": "accuracy",
        "value": value,
    }


def test_low_and_high_thresholds_by_hand():
    values = {1: (0.50, 0.52), 4: (0.60, 0.70), 16: (0.70, 0.90), 64: (0.88, 0.90)}
    results = [
        {"backbone": "b", "method": "m", "budget": n, "seed": s, "tunable": n + 1, "value": v}
        for n, pair in values.items()
        for s, v in enumerate(pair)
    ]
    results.append({"backbone": "b", "method": "full", "budget": 0, "seed": 0, "tunable": 1000, "value": 0.9})
    (curve,) = curves(results, {"b": 1000}, {"b": 0.55}, 0.02)
    # Means 0.51, 0.65, 0.8, 0.89; deviations 0.014, 0.071, 0.141, 0.014.
    assert curve.low == 5 and curve.high == 65 and curve.full.mean == 0.9
    (curve,) = curves(results, {"b": 1000}, {"b": 0.60}, 0.1)
    assert curve.low == 17, "0.65 − 0.071 is not above 0.60"
    assert curve.high == 17
    (curve,) = curves(results, {"b": 1000}, {"b": 0.95}, 0.0)
    assert curve.low is None and curve.high is None


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_finished_runs_are_not_run_again_and_a_diverged_one_does_not_stop_the_others(tmp_path, workers):
    runs = [Run("playground", "uniform_scalar", n, s) for n in (64, 1, 4) for s in (0, 1)]
    done = []
    with pytest.raises(RuntimeError, match="2 of 6 runs diverged, the first is playground-uniform_scalar-64-"):
        done.extend(run_all(runs, settings(), tmp_path, workers, fake))
    files = sorted(p.name for p in (tmp_path / "runs").iterdir())
    assert files == [f"playground-uniform_scalar-{n}-{s}.json" for n in (1, 4) for s in (0, 1)]
    first = run_file(tmp_path, runs[2])
    first.write_text(json.dumps({**json.loads(first.read_text()), "value": 0.123}))
    results = list(run_all(runs[2:], settings(), tmp_path, workers, fake))
    assert sorted(r["value"] for r in results) == pytest.approx([0.123, 0.51, 0.6, 0.61])
    whole = json.loads(first.read_text())
    without = {name: value for name, value in whole.items() if name != "method"}
    for wrong in ("{", "[]", "5", json.dumps(without), json.dumps({**whole, "seed": 7})):
        first.write_text(wrong)
        with pytest.raises(ValueError, match="is no finished run"):
            list(run_all(runs[2:], settings(), tmp_path, workers, fake))


@pytest.mark.slow
def test_the_command_in_whole(tmp_path, capsys):
    words = ["thresholds", "--out", str(tmp_path), "--task", "sst2", "--budgets", "[4, 64]", "--seeds", "[0, 1]"]
    words += ["--workers", "1", "--floor", "guess", "--methods", "[uniform_scalar, lora]"]
    for name, value in SMALL.items():
        words += [f"--{name}", str(value)]
    assert main(words) == 0, capsys.readouterr()
    shown = capsys.readouterr().out
    assert "thresholds, in tunable parameters" in shown and "playground, lora: left out 4, 64" in shown
    content = json.loads((tmp_path / "thresholds.json").read_text())
    (curve,) = content["curves"]
    assert [point["tunable"] for point in curve["points"]] == [4, 64] and curve["floor"] == 0.5
    assert curve["full"]["tunable"] == curve["parameters"] and curve["head"] is None
    assert (tmp_path / "thresholds.png").stat().st_size > 5000
    files = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()}
    assert len(files) == 6
    assert main(words) == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "runs").iterdir()} == files, "nothing was run again"
    assert main([*words, "--learning_rate", "0.5"]) == 1
    assert "had other settings: learning_rate 0.003 (now 0.5)" in capsys.readouterr().err


def test_positions_alone_differ_when_the_data_seed_is_fixed(tmp_path):
    def batch(seed: int, data_seed: int | None) -> tuple[Any, Any]:
        module, data, _ = train(Run("playground", "uniform_scalar", 50, seed), settings(data_seed=data_seed))
        return module.adapter.positions, next(iter(data.train_dataloader()))["input_ids"]

    (places, rows), (other_places, same_rows) = batch(0, 7), batch(1, 7)
    assert rows.tolist() == same_rows.tolist()
    assert {k: v.tolist() for k, v in places.items()} != {k: v.tolist() for k, v in other_places.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["lorra"]}, "method 'lorra'"),
        ({"budgets": [0]}, r"budgets \[0\]"),
        ({"ratio": 1}, "ratio 1"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"workers": 0}, "workers 0"),
        ({"seeds": [2**32]}, "seeds"),
        ({"data_seed": -1}, "data_seed -1"),
        (
            {"budgets": [10**9], "full_tuning": False},
            "no budget is left .playground, uniform_scalar: left out 1,000,000,000",
        ),
        ({"methods": ["lora"], "budgets": [1]}, "no budget is left .playground, lora: left out 1: "),
        (
            {"methods": ["lora"], "budgets": [9999], "lora_targets": "nothing.like.it"},
            "no budget is left .playground, lora",
        ),
        ({"task_type": "classification", "floor": "untrained"}, "random head"),
    ],
)
def test_bad_input_is_named(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        thresholds(str(tmp_path / "out"), **options)
    assert not (tmp_path / "out").exists()


def test_a_sweep_that_failed_does_not_bind_the_next(tmp_path, monkeypatch):
    def counted(runs, options, folder, workers):
        seen.append((len(runs), options.batch_size))
        raise KeyboardInterrupt

    seen: list[tuple[int, int]] = []
    monkeypatch.setattr("fulgurite.commands.thresholds.command._with_progress", counted)
    shared: dict[str, Any] = {"budgets": [4], "seeds": [0], "full_tuning": False, "floor": "guess"}
    for size in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            thresholds(str(tmp_path), batch_size=size, **shared)
    assert seen == [(1, 3), (1, 4)]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "a.json").write_text("{}")
    with pytest.raises(ValueError, match=r"had other settings: batch_size 4 \(now 5\)"):
        thresholds(str(tmp_path), batch_size=5, **shared)
    for broken in ("{", "[1]"):
        (tmp_path / "settings.json").write_text(broken)
        with pytest.raises(
            ValueError, match=r"settings.json does not tell the settings of the runs beside it .* another --out"
        ):
            thresholds(str(tmp_path), **shared)
