"""The series of playground models: its sizes, its rows, and that the largest is drawn only after it is predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoConfig, AutoTokenizer

from benchmarks.studies.pass_rates import series
from fulgurite.evaluation.pass_until.reading import COLUMNS
from fulgurite.evaluation.tasks import TASKS
from fulgurite.evaluation.tasks.rows import items_of

pytest.importorskip("scipy")


def test_sizes_follow_the_rule_of_the_paper_scaled_down(tmp_path: Path) -> None:
    assert [series.shape(i)["heads"] for i in (3, 4, 5, 6, 7, 8, 9)] == [8, 12, 16, 21, 26, 32, 38], "of the paper"
    series.write_models(tmp_path)
    for i in series.SIZES:
        config = AutoConfig.from_pretrained(tmp_path / "models" / str(i))
        assert config.num_hidden_layers == i and config.hidden_size == 8 * config.num_attention_heads
        assert config.intermediate_size == 2.5 * config.hidden_size
        width = config.hidden_size
        assert series._parameters(tmp_path, i) == pytest.approx(i * (11.5 * width**2 + 2 * width) + width, abs=1)
        assert len(AutoTokenizer.from_pretrained(tmp_path / "models" / str(i))) <= config.vocab_size


def test_no_instance_of_the_task_is_trained_on(tmp_path: Path) -> None:
    series.write_rows(tmp_path, trained=4000, asked=40)
    items = items_of(TASKS["bigbench_written"], str(tmp_path / "task.json")).items
    texts = [json.loads(line)["text"] for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    assert len({item.prompt for item in items}) == 40 and len(set(texts)) == 4000
    assert texts[0].startswith("Q: sort ") and all(len(item.solution) in (7, 8, 9) for item in items)
    trained = {text.partition("\nA:")[0] for text in texts}
    assert not any(item.prompt.partition("\nA:")[0] in trained for item in items)
    tokenizer = AutoTokenizer.from_pretrained(series.BACKBONES["playground"])
    assert max(len(tokenizer(" " + item.solution).input_ids) for item in items) < series._LONGEST


def test_the_largest_is_predicted_before_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, drawn = (2, 3, 4, 5, 6), []
    series.write_models(tmp_path, sizes)
    monkeypatch.setattr(series, "_scale", lambda files, out, more: scale(files, out, [*more, *QUICK]))

    def asked(out: Path, i: int, passes: int, cap: int) -> Path:
        drawn.append((i, (out / "before" / "scaling.json").exists()))
        size = series._parameters(out, i)
        rate = np.exp(-np.exp(6.0 - 0.4 * np.log(size)))
        n = passes + np.random.default_rng(i).negative_binomial(passes, rate)
        values = {"model": f"i{i}", "size": int(size), "instance": "t", "n": n, "c": passes, "r": passes, "cap": cap}
        row = {**dict.fromkeys(COLUMNS, ""), **values, "stop": "task", "items": 40}
        path = out / f"{i}.csv"
        path.write_text(",".join(COLUMNS) + "\n" + ",".join(str(row[name]) for name in COLUMNS) + "\n")
        return path

    monkeypatch.setattr(series, "ask", asked)
    found = series.law(tmp_path, sizes, 30, 10**9)
    assert drawn == [(2, False), (3, False), (4, False), (5, False), (6, True)]
    [before] = found["predicted before it was drawn"]
    [after] = found["predicted beside measured"]
    assert before["truth"] is None and before["pu"] == pytest.approx(after["pu"]) and after["agrees"] is True
    assert [row["i"] for row in found["sizes"]] == list(sizes) and found["sizes"][0]["passed"] == 30


scale, QUICK = series._scale, ["--repeats", "300"]


def test_weights_along_the_way_and_the_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(series, "_EVERY", 2)
    series.write_rows(tmp_path, trained=200, asked=2)
    series.write_models(tmp_path, [1])
    series.train(tmp_path, [1], 4)
    names = {file.name for file in (tmp_path / "fit" / "1" / "checkpoints").iterdir()}
    assert {"epoch=0-step=2.ckpt", "epoch=0-step=4.ckpt", "last.ckpt"} <= names
    assert json.loads((tmp_path / "seconds.json").read_text())["1"]["cpu"] > 0
    assert yaml.safe_load(series.CONFIG.read_text())["trainer"]["max_steps"] % 100 == 0
