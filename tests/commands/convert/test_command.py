"""`fulgurite convert`: stock transformers computes the same from the folder as from the file; a GGUF file trains and leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.models import load_backbone
from tests.models.gguf_writer import write_gguf

pytest.importorskip("gguf")
IDS = torch.arange(7, 207).view(2, 100)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_backbone(resolve_backbone("playground"), "causal_lm").model
    return write_gguf(model, tmp_path_factory.mktemp("gguf") / "tiny.gguf", "Q4_1")


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


def test_the_folder_is_the_file(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    out = tmp_path / "out"
    assert main(["convert", "--model", str(file), "--out", str(out)]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "llama, 38 tensors, stored mostly as Q4_1" in said and "the tokenizer, with its chat template" in said
    stock = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(out)), logits(stock))
    tokenizer, theirs = AutoTokenizer.from_pretrained(out), load_tokenizer("playground")
    assert tokenizer("a red ball, 12").input_ids == theirs("a red ball, 12").input_ids
    assert tokenizer.chat_template == theirs.chat_template
    assert (
        theirs.convert_tokens_to_ids("<|end|>")
        in json.loads((out / "generation_config.json").read_text())["eos_token_id"]
    )
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    assert main(["convert", "--model", str(file), "--out", str(out)]) == 1
    assert "is there already" in capsys.readouterr().err
    words = ["convert", "--model", str(file), "--out", str(out), "--dtype", "bfloat16", "--overwrite"]
    assert main(words) == 0, capsys.readouterr().err
    assert {p.dtype for p in AutoModelForCausalLM.from_pretrained(out, dtype="auto").parameters()} == {torch.bfloat16}


def test_what_cannot_be_converted(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    assert main(["convert", "--model", "playground", "--out", out]) == 1
    assert "--model playground is no GGUF file, and no folder with one" in capsys.readouterr().err
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(file.read_bytes()[:-5000])
    assert main(["convert", "--model", str(cut), "--out", out]) == 1
    assert "cut.gguf is cut short" in capsys.readouterr().err
    assert main(["convert", "--model", str(file), "--out", str(file.parent), "--overwrite"]) == 1
    assert "holds the GGUF file" in capsys.readouterr().err
    assert file.is_file() and not Path(out).exists()


@pytest.mark.slow
def test_a_gguf_backbone_trains_generates_and_leaves(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    fit = [
        "fit",
        "--model",
        "SFTModule",
        "--model.backbone",
        str(file),
        "--model.adapter",
        "LoRA",
        "--model.adapter.rank",
        "2",
    ]
    data = ["--data", "UltraChatDataModule", "--data.path", "builtin", "--data.max_length", "96"]
    trainer = ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    assert main([*fit, *data, *trainer, "--trainer.default_root_dir", str(run)]) == 0, capsys.readouterr().err
    checkpoint = str(next(run.rglob("last.ckpt")))
    capsys.readouterr()
    for form in ("merged", "peft"):
        words = ["export", "--ckpt_path", checkpoint, "--format", form, "--out", str(tmp_path / form)]
        assert main(words) == 0, capsys.readouterr().err
    assert "convert" in capsys.readouterr().out  # PEFT cannot load a GGUF base by itself
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(file)
    answers = []
    for source in (
        ["--model", checkpoint],
        ["--model", str(tmp_path / "merged")],
        ["--adapter", str(tmp_path / "peft")],
    ):
        words = ["generate", "--prompt", "Say a sentence.", "--max_new_tokens", "8", "--temperature", "0", *source]
        assert main(words) == 0, capsys.readouterr().err
        answers.append(capsys.readouterr().out)
    assert answers[0].strip() and len(set(answers)) == 1
