"""`fulgurite plug-in` behind `emulate` and a fit, on the playground's model; stock PEFT and transformers load what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fulgurite.adapters import APET, LoRA, SoRA
from fulgurite.cli import main
from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules import OffsiteTuningModule
from fulgurite.models import load_backbone
from tests.commands.emulate.test_command import QUESTIONS, lines

BASE = resolve_backbone("playground")
IDS = torch.arange(5, 45).reshape(2, 20)


def emulate(out: Path, *words: str) -> str:
    words = ("emulate", "--model", "playground", "--out", str(out), "--device", "cpu", "--method", "uniform", *words)
    assert main([*words, "--train", "2"]) == 0
    return str(out)


def trained(tmp_path: Path, folder: str, change: float = 0.02, **options: Any) -> tuple[OffsiteTuningModule, str]:
    """A checkpoint as a Trainer writes it, in place of a fit with random noise on what is trained; (module, file)."""
    from lightning.pytorch import Trainer

    torch.manual_seed(0)
    made = OffsiteTuningModule(folder, **options)
    made.configure_model()
    with torch.no_grad():
        for p in made.network.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p), alpha=change)
    if made.adapter is not None:
        made.adapter.sync()
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, default_root_dir=tmp_path)
    trainer.strategy.connect(made)
    trainer.save_checkpoint(tmp_path / "tuned.ckpt")
    return made, str(tmp_path / "tuned.ckpt")


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits


def equal(found: torch.Tensor, expected: torch.Tensor) -> bool:
    """But for rounding: the order of the products differs."""
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())


def plug_in(checkpoint: str, out: Path, *words: str) -> int:
    return main(
        ["plug-in", "--ckpt_path", checkpoint, "--model", "playground", "--out", str(out), "--device", "cpu", *words]
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An emulator with all layers: what is tuned on it computes what the full model with the tuned layers has to compute."""
    return emulate(tmp_path_factory.mktemp("whole") / "emulator", "--keep", "4")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Layers 0, 2 and 3 at the places 0, 1 and 2."""
    return emulate(tmp_path_factory.mktemp("small") / "emulator", "--keep", "3")


@pytest.mark.parametrize("adapter", [LoRA(rank=4), SoRA(rank=4), APET(budget=500)], ids=lambda a: type(a).__name__)
def test_an_adapter_leaves_as_a_stock_peft_adapter_of_the_full_model(
    tmp_path: Path, whole: str, adapter, capsys
) -> None:
    from peft import PeftModel

    made, checkpoint = trained(tmp_path, whole, 0.01, adapter=adapter)
    assert plug_in(checkpoint, tmp_path / "out") == 0, capsys.readouterr()
    assert "max |PEFT − adapter|" in capsys.readouterr().out
    full = load_backbone(BASE, "causal_lm").model
    before = logits(full)
    found = logits(PeftModel.from_pretrained(full, str(tmp_path / "out")))
    expected = logits(made.network)
    assert (expected - before).abs().max() > 1e-3
    assert equal(found, expected)
    assert plug_in(checkpoint, tmp_path / "merged", "--format", "merged") == 0
    merged = load_backbone(str(tmp_path / "merged"), "causal_lm").model
    assert equal(logits(merged), expected)


def test_an_adapter_on_a_smaller_emulator_lies_at_the_full_models_places(tmp_path: Path, small: str, capsys) -> None:
    made, checkpoint = trained(tmp_path, small, adapter=LoRA(rank=2, targets=".*q_proj"))
    assert plug_in(checkpoint, tmp_path / "out") == 0, capsys.readouterr()
    tensors = load_file(tmp_path / "out" / "adapter_model.safetensors")
    key = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"
    assert {name for name in tensors if "lora_A" in name} == {key.format(0), key.format(3)}
    assert torch.equal(tensors[key.format(3)], made.adapter.branches["model.layers.2.self_attn.q_proj"].lora_a)


def test_untrained_layers_write_the_full_model_bit_for_bit(tmp_path: Path, small: str, capsys) -> None:
    _, checkpoint = trained(tmp_path, small, 0.0)
    assert plug_in(checkpoint, tmp_path / "out") == 0, capsys.readouterr()
    mine, theirs = (load_file(Path(folder) / "model.safetensors") for folder in (tmp_path / "out", BASE))
    theirs = {key: value.float() for key, value in theirs.items()}
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_whole_layers_and_their_figures_side_by_side(tmp_path: Path, small: str, capsys) -> None:
    made, checkpoint = trained(tmp_path, small)
    rows = lines(tmp_path / "questions.jsonl", QUESTIONS)
    words = ["--rows", rows, "--task", "arc_easy", "--limit", "4"]
    assert plug_in(checkpoint, tmp_path / "out", *words) == 0, capsys.readouterr()
    said = capsys.readouterr().out
    for part in ("full model", "emulator, tuned", "plug-in", "acc_norm", "layers 0, 3 of 4 were tuned: whole"):
        assert part in said
    figures = json.loads((tmp_path / "out" / "plug_in.json").read_text())
    names = ["full model", "emulator", "emulator, tuned", "plug-in"]
    assert list(figures) == names and all(figures[name]["acc"]["items"] == 4 for name in names)
    assert len({round(figures[name]["perplexity"], 6) for name in names}) == 4
    found = load_backbone(str(tmp_path / "out"), "causal_lm").model
    from fulgurite.commands.emulate.measuring import measure
    from fulgurite.commands.emulate.support import read_support
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    read = read_support("test", load_tokenizer("playground"), rows, "arc_easy", limit=4)
    assert measure(found, read, 8).perplexity == pytest.approx(figures["plug-in"]["perplexity"], rel=1e-6)
    assert measure(made.network, read, 8).perplexity == pytest.approx(
        figures["emulator, tuned"]["perplexity"], rel=1e-6
    )
    start = load_backbone(BASE, "causal_lm").model
    assert measure(start, read, 8).perplexity == pytest.approx(figures["full model"]["perplexity"], rel=1e-6)
    for place, number in ((0, 0), (2, 3)):
        for key, value in made.network.model.layers[place].named_parameters():
            assert torch.equal(found.model.layers[number].get_parameter(key), value)
    for key, value in found.model.layers[1].named_parameters():
        assert torch.equal(value, start.model.layers[1].get_parameter(key))


@pytest.mark.parametrize("adapter", [LoRA(rank=4), APET(budget=5000)], ids=lambda a: type(a).__name__)
def test_figures_with_an_adapter_are_those_of_the_written_model(tmp_path: Path, small: str, adapter, capsys) -> None:
    from fulgurite.commands.emulate.measuring import measure
    from fulgurite.commands.emulate.support import read_support
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    made, checkpoint = trained(tmp_path, small, 0.01, adapter=adapter)
    words = ["--rows", "builtin", "--limit", "4", "--format", "merged"]
    assert plug_in(checkpoint, tmp_path / "out", *words) == 0, capsys.readouterr()
    figures = json.loads((tmp_path / "out" / "plug_in.json").read_text())
    read = read_support("test", load_tokenizer("playground"), "builtin", limit=4)
    found = load_backbone(str(tmp_path / "out"), "causal_lm").model
    assert measure(found, read, 8).perplexity == pytest.approx(figures["plug-in"]["perplexity"], rel=1e-5)
    assert measure(made.network, read, 8).perplexity == pytest.approx(
        figures["emulator, tuned"]["perplexity"], rel=1e-5
    )
    assert figures["plug-in"]["perplexity"] != pytest.approx(figures["full model"]["perplexity"], rel=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "peft"], "holds whole layers and no adapter"),
        (["--task", "arc_easy"], "--task arc_easy without --rows"),
        (["--tolerance", "0"], "tolerance=0"),
        (["--rows", "NOWHERE.jsonl"], "NOWHERE.jsonl"),
        (["--model", "OTHER"], "it differs in layer 3; give that base, untouched"),
        (["--ckpt_path", "NONE.ckpt"], "no such file"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, small: str, capsys, words: list[str], said: str) -> None:
    _, checkpoint = trained(tmp_path, small)
    if "OTHER" in words:
        other: Any = load_backbone(BASE, "causal_lm").model
        with torch.no_grad():
            other.model.layers[3].mlp.up_proj.weight[0, 0] += 1e-5
        other.save_pretrained(tmp_path / "other")
        for file in Path(BASE).glob("tokenizer*"):
            (tmp_path / "other" / file.name).write_bytes(file.read_bytes())
        words = ["--model", str(tmp_path / "other")]
    capsys.readouterr()
    given = {"--ckpt_path": checkpoint, "--model": "playground", "--out": str(tmp_path / "out")}
    given |= dict(zip(words[::2], words[1::2], strict=True))
    assert main(["plug-in", *(word for pair in given.items() for word in pair)]) == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and error.startswith("fulgurite: error:")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_module_is_refused(tmp_path: Path, capsys) -> None:
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    assert plug_in(str(tmp_path / "other.ckpt"), tmp_path / "out") == 1
    assert "was not trained on an emulator; give a checkpoint of OffsiteTuningModule" in capsys.readouterr().err


def test_export_points_here(tmp_path: Path, small: str, capsys) -> None:
    _, checkpoint = trained(tmp_path, small)
    assert main(["export", "--ckpt_path", checkpoint, "--out", str(tmp_path / "out")]) == 1
    assert "layers of an emulator; `fulgurite plug-in` puts them into the full model" in capsys.readouterr().err


def test_emulate_fit_and_plug_in_on_the_command_line(tmp_path: Path, small: str, capsys) -> None:
    run = tmp_path / "run"
    words = ["fit", "--model", "OffsiteTuningModule", "--model.backbone", small, "--model.learning_rate", "1e-3"]
    words += [
        "--data",
        "ChoiceTasksDataModule",
        "--data.task",
        "piqa",
        "--data.path",
        "builtin",
        "--data.limit_train",
        "32",
    ]
    words += ["--data.cache_dir", str(tmp_path / "cache"), "--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    words += ["--trainer.default_root_dir", str(run), "--trainer.logger", "false", "--trainer.limit_val_batches", "1"]
    assert main([*words, "--trainer.enable_progress_bar", "false"]) == 0, capsys.readouterr()
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert f"fulgurite plug-in --ckpt_path {checkpoint} --model FULL --out {run / 'plugged'}" in capsys.readouterr().out
    assert plug_in(checkpoint, tmp_path / "out") == 0, capsys.readouterr()
    found, start = (load_file(Path(folder) / "model.safetensors") for folder in (tmp_path / "out", BASE))
    changed = {key.split(".")[2] for key in start if not torch.equal(found[key], start[key].float())}
    assert changed == {"0", "3"}
