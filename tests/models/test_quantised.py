"""Quantised bases: packed while they are loaded, refused where they cannot be, trained, resumed, tested, written and exported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.adapters import APET, LoRA
from fulgurite.cli import main
from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules import APETModule, PreferenceModule, RewardModule, SFTModule
from fulgurite.models import load_backbone, load_reward_model
from fulgurite.models.quantised import quantisation_of

pytest.importorskip("bitsandbytes")
BASE = resolve_backbone("playground")
IDS = torch.arange(7, 107).view(2, 50)


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


def test_linear_layers_of_the_blocks_are_packed_and_nothing_else() -> None:
    model = load_backbone(BASE, "causal_lm", quantize="nf4", dtype="bfloat16").model
    assert quantisation_of(model) == "bitsandbytes"
    kinds = {type(m).__name__ for name, m in model.named_modules() if "_proj" in name}
    assert kinds == {"Linear4bit"} and {type(model.lm_head).__name__} == {"Linear"}
    state = model.model.layers[0].self_attn.q_proj.weight.quant_state
    assert (state.quant_type, state.blocksize, state.nested) == ("nf4", 64, True)
    assert {p.dtype for p in model.parameters()} == {torch.uint8, torch.bfloat16}
    rewards = load_reward_model(BASE, quantize="int8")
    assert quantisation_of(rewards.model) == "bitsandbytes" and rewards.new_heads == ("regression_head",)
    classes = load_backbone(BASE, "classification", num_labels=2, quantize="int8")
    assert type(classes.model.score).__name__ == "Linear" and classes.new_heads == ("score",)


def test_what_cannot_be_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"quantize='int2'; allowed are 'nf4', 'int8', or none"):
        load_backbone(BASE, "causal_lm", quantize="int2")
    with pytest.raises(ValueError, match="quantize and from_scratch were given"):
        load_backbone(BASE, "causal_lm", quantize="nf4", from_scratch=True)
    load_backbone(BASE, "causal_lm", quantize="nf4").model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is stored quantised \(bitsandbytes\) and cannot be quantised again"):
        load_backbone(str(tmp_path), "causal_lm", quantize="int8")
    for module in (SFTModule("playground", quantize="nf4"), SFTModule(str(tmp_path))):
        with pytest.raises(
            ValueError, match=r"SFTModule: the weights of .* are quantised \(bitsandbytes\) and cannot be trained"
        ):
            module.configure_model()
    with pytest.raises(TypeError, match="APETModule: got an unexpected keyword argument 'quantize'"):
        APETModule("playground", "causal_lm", budget=5, quantize="nf4")
    with pytest.raises(ValueError, match=r"APET: .* is quantised or packed"):
        SFTModule("playground", adapter=APET(budget=5), quantize="int8").configure_model()
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ImportError, match=r"not installed; pip install 'fulgurite\[quantize\]'"):
        load_backbone(BASE, "causal_lm", quantize="nf4")


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_a_base_whose_package_is_missing_is_named(tmp_path: Path, method: str) -> None:
    model = load_backbone(BASE, "causal_lm").model
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": method, "bits": 4, "group_size": 32, "version": "gemm"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ImportError, match=rf"is stored quantised \({method}\), and what computes with it is not installed"
    ) as caught:
        load_backbone(str(tmp_path), "causal_lm")
    assert "\n" not in str(caught.value)


def test_a_base_that_passes_no_gradient_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SFTModule("playground", adapter=LoRA(rank=2), quantize="nf4")
    loaded = module.load_base()
    monkeypatch.setattr(type(loaded.model.hf_quantizer), "is_trainable", False)
    with pytest.raises(ValueError, match="through whose layers transformers passes no gradient"):
        module.configure_model()


def test_the_reference_of_preferences_is_the_same_quantised_base() -> None:
    module = PreferenceModule("playground", adapter=LoRA(rank=2), quantize="int8")
    module.configure_model()
    assert module.network is not None and module.adapter is not None
    with module.adapter.disabled():
        base = logits(module.network)
    assert torch.equal(base, logits(module.network))  # B is zero
    assert quantisation_of(module.second_copy()) == "bitsandbytes"
    reward = RewardModule("playground", adapter=LoRA(rank=2), quantize="nf4")
    reward.configure_model()
    assert quantisation_of(reward.network) == "bitsandbytes"


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(words) == 0, capsys.readouterr().err[-3000:]
    return capsys.readouterr().out


@pytest.mark.slow
def test_from_fit_to_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, kind = tmp_path / "run", "nf4"
    model = [
        "--model",
        "SFTModule",
        "--model.backbone",
        "playground",
        "--model.quantize",
        kind,
        "--model.adapter",
        "SoRA",
    ]
    more = ["--model.adapter.rank", "4", "--model.learning_rate", "1e-2", "--model.gradient_checkpointing", "true"]
    data = ["--data", "UltraChatDataModule", "--data.path", "builtin", "--data.max_length", "96"]
    trainer = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.limit_val_batches",
        "1",
        "--trainer.default_root_dir",
        str(folder),
    ]
    fit = ["fit", *model, *more, *data, *trainer]
    run([*fit, "--trainer.max_steps", "3"], capsys)
    checkpoint = folder / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert all(".branches." in key for key in content["state_dict"]) and content["hyper_parameters"]["quantize"] == kind
    run([*fit, "--trainer.max_steps", "5", "--ckpt_path", "last"], capsys)
    assert torch.load(checkpoint, weights_only=True)["global_step"] == 5
    test = ["test", *model, *more, *data, *trainer, "--trainer.limit_test_batches", "1", "--ckpt_path", "last"]
    assert "test_loss" in run(test, capsys)
    generate = ["generate", "--prompt", "Say a sentence.", "--max_new_tokens", "6"]
    assert run([*generate, "--model", str(checkpoint)], capsys).strip()
    assert main([*generate, "--model", str(checkpoint), "--dtype", "bfloat16"]) == 1
    assert "is quantised, whose dtype is fixed" in capsys.readouterr().err

    for form in ("merged", "peft", "adapter"):
        said = run(["export", "--ckpt_path", str(checkpoint), "--format", form, "--out", str(tmp_path / form)], capsys)
        assert (
            f"trained on the base quantised to {kind}; what is written and compared below stands on the full-precision base"
            in said
        )
    from fulgurite.adapters import load_adapter

    full = load_backbone(BASE, "causal_lm").model
    merged = load_backbone(str(tmp_path / "merged"), "causal_lm").model
    untouched = logits(full)
    load_adapter(full, tmp_path / "adapter")
    torch.testing.assert_close(logits(merged), logits(full), rtol=1e-5, atol=1e-4)
    assert (logits(full) - untouched).abs().max() > 1e-2 and quantisation_of(merged) is None


@pytest.mark.slow
def test_an_adapter_on_a_folder_that_is_stored_quantised(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    base = tmp_path / "base"
    load_backbone(BASE, "causal_lm", quantize="nf4").model.save_pretrained(base)
    load_tokenizer("playground").save_pretrained(base)
    folder = tmp_path / "run"
    words = [
        "fit",
        "--model",
        "SFTModule",
        "--model.backbone",
        str(base),
        "--model.adapter",
        "LoRA",
        "--model.adapter.rank",
        "2",
    ]
    data = [
        "--data",
        "UltraChatDataModule",
        "--data.path",
        "builtin",
        "--data.max_length",
        "96",
        "--trainer.max_steps",
        "2",
    ]
    trainer = [
        "--trainer.accelerator",
        "cpu",
        "--trainer.limit_val_batches",
        "1",
        "--trainer.default_root_dir",
        str(folder),
    ]
    run([*words, *data, *trainer], capsys)
    checkpoint = str(folder / "checkpoints" / "last.ckpt")
    for form in ("peft", "adapter"):
        run(["export", "--ckpt_path", checkpoint, "--format", form, "--out", str(tmp_path / form)], capsys)
    assert main(["export", "--ckpt_path", checkpoint, "--format", "merged", "--out", str(tmp_path / "merged")]) == 1
    error = capsys.readouterr().err
    assert "is quantised (torch.uint8); load the base in full precision and merge there" in error
    assert not (tmp_path / "merged").exists()
