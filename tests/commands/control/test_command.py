"""`fulgurite control` and `generate --conditions`: from a checkpoint and from what is exported of it; what cannot be asked for."""

from __future__ import annotations

import json

import pytest
from lightning.pytorch import Trainer, seed_everything

from fulgurite.adapters import LoRA
from fulgurite.callbacks import AdapterCheckpoint
from fulgurite.cli import main
from fulgurite.data.playground.rows.levels import level_rows
from fulgurite.datamodules import CPODataModule, SFTDataModule
from fulgurite.lightning_modules import CPOModule, SFTModule

QUESTION = "Anna saw some animals in the park. Which animals were there?"


def fit(folder, module, data):
    trainer = Trainer(
        accelerator="cpu", max_steps=1, limit_val_batches=0, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=[AdapterCheckpoint()], default_root_dir=folder,
    )  # fmt: skip
    seed_everything(0)
    trainer.fit(module, data)
    path = folder / f"{type(module).__name__}.ckpt"
    trainer.save_checkpoint(path)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that was controlled by helpfulness and honesty alone, and one of SFT."""
    folder = tmp_path_factory.mktemp("cpo")
    rows = level_rows("train", count=20)
    for row in rows:
        for answer in row["responses"]:
            answer["Harmlessness_Rating"] = "N/A"
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = {"tokenizer": "playground", "max_length": 256, "batch_size": 1, "cache_dir": str(folder / "cache")}
    data = CPODataModule("cpsft", str(folder / "rows.jsonl"), **shared)
    chats = SFTDataModule("builtin", limit_train=10, **shared)
    adapter = LoRA(rank=2, alpha=4)
    cpo = fit(folder, CPOModule("playground", adapter=adapter, learning_rate=1e-4), data)
    return cpo, fit(folder, SFTModule("playground", adapter=adapter), chats)


def said(capsys, *words):
    assert main(["generate", *words, "--max_new_tokens", "12", "--prompt", QUESTION]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


@pytest.mark.slow
def test_conditions_stand_in_front_of_the_prompt(trained, tmp_path, capsys, monkeypatch):
    from fulgurite.commands.generate import command

    cpo, _ = trained
    seen = []
    original = command.generate_text
    monkeypatch.setattr(command, "generate_text", lambda m, t, p, *rest: seen.append(p) or original(m, t, p, *rest))
    typed = "honesty=2,helpfulness=5"
    asked = said(capsys, "--model", cpo, "--conditions", typed)
    by_hand = f"<helpfulness:5> <honesty:2> {QUESTION}"
    assert main(["generate", "--model", cpo, "--max_new_tokens", "12", "--prompt", by_hand]) == 0
    assert capsys.readouterr().out == asked
    said(capsys, "--model", cpo)
    assert [prompts[0][-1].content for prompts in seen] == [by_hand, by_hand, QUESTION]
    (tmp_path / "q.jsonl").write_text(json.dumps({"instruction": QUESTION}) + "\n")
    words = ["generate", "--model", cpo, "--file", str(tmp_path / "q.jsonl"), "--max_new_tokens", "12"]
    assert main([*words, "--output", str(tmp_path / "a.jsonl"), "--conditions", typed]) == 0
    (row,) = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert row["completion"] == asked.removesuffix("\n") and row["instruction"] == QUESTION


@pytest.mark.slow
@pytest.mark.parametrize("form", ["adapter", "peft", "merged"])
def test_conditions_travel_with_what_is_exported(trained, tmp_path, capsys, form):
    cpo, _ = trained
    out = str(tmp_path / "out")
    assert main(["export", "--ckpt_path", cpo, "--out", out, "--format", form]) == 0
    capsys.readouterr()
    words = ["--model", out] if form == "merged" else ["--adapter", out, "--model", "playground"]
    if form == "peft":
        pytest.importorskip("peft")
    assert said(capsys, *words, "--conditions", "honesty=2") == said(
        capsys, "--model", cpo, "--conditions", "honesty=2"
    )
    assert json.loads((tmp_path / "out" / "conditions.json").read_text()) == {
        "objectives": {"helpfulness": [1, 5], "honesty": [1, 5]},
        "spelling": "canonical",
    }


@pytest.mark.parametrize(
    ("which", "typed", "message"),
    [
        (0, "harmlessness=1", "'harmlessness' is no objective that was trained with; those are helpfulness, honesty"),
        (0, "honesty=9", "honesty=9; its scale goes from 1 to 5"),
        (0, "honesty", "OBJECTIVE=LEVEL is needed"),
        (1, "honesty=5", "SFTModule.ckpt was trained without conditions"),
    ],
)
def test_conditions_that_the_model_never_saw(trained, capsys, which, typed, message):
    assert main(["generate", "--model", trained[which], "--prompt", "x", "--conditions", typed]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_control_reports_levels_correlations_and_falls(trained, tmp_path, capsys):
    cpo, _ = trained
    out = tmp_path / "control"
    words = ["control", "--model", cpo, "--out", str(out), "--count", "2", "--max_new_tokens", "6"]
    assert main(words) == 0, capsys.readouterr().err
    shown = capsys.readouterr().out
    assert "Spearman's ρ" in shown and "what a free objective loses" in shown and "harmlessness" not in shown
    found = json.loads((out / "control.json").read_text())
    assert list(found["objectives"]) == ["helpfulness", "honesty"] and len(found["answers"]) == 2 * (1 + 10 + 25)
    assert [row["controlled"] for row in found["rows"]] == ["helpfulness", "honesty"] + 2 * ["helpfulness+honesty"]
    assert (out / "control.png").read_bytes().startswith(b"\x89PNG")


def test_control_takes_a_rating_function_and_instructions_of_ones_own(trained, tmp_path, capsys, monkeypatch):
    cpo, _ = trained
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_judge.py").write_text(
        "def rate(instruction, answer):\n    return {'honesty': len(instruction) % 5 + 1}\n"
    )
    (tmp_path / "asks.txt").write_text("one\nthree\n")
    words = ["control", "--model", cpo, "--file", "asks.txt", "--max_new_tokens", "4", "--two_at_once", "false"]
    assert main([*words, "--rate", "my_judge:rate"]) == 0, capsys.readouterr().err
    found = json.loads((tmp_path / "control" / "control.json").read_text())
    assert [a["achieved"] for a in found["answers"][:2]] == [{"honesty": 4}, {"honesty": 1}]
    assert found["curves"]["helpfulness"][0][1] is None and "NaN" not in json.dumps(found)
    said = capsys.readouterr().out
    assert "my_judge:rate gave no answer a level of helpfulness" in said and "nan" not in said
    for wrong, message in (("my_judge", "give playground, or MODULE:FUNCTION"), ("nothing:rate", "No module named")):
        assert main([*words, "--rate", wrong]) == 1
        assert message in capsys.readouterr().err
    assert main(["control", "--model", cpo, "--rate", "my_judge:rate"]) == 1
    assert "no --file with instructions was given" in capsys.readouterr().err
    assert main(["control", "--model", trained[1]]) == 1
    assert "trained without conditions" in capsys.readouterr().err
    (tmp_path / "asks.jsonl").write_text('{"instruction": "one"}\n{"instruction": "half \\ud83d"}\n')
    assert main(["control", "--model", cpo, "--rate", "my_judge:rate", "--file", "asks.jsonl"]) == 1
    assert "asks.jsonl, line 2: half a surrogate pair" in capsys.readouterr().err
