"""A mixture of experts as backbone: fitted with SoRA on its experts, and exported in every form."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from tests.commands.export.test_command import CLOSE, expected_logits, logits_of, relative


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3-MoE with the playground's tokenizer; it asks for the auxiliary loss, and its first block is dense."""
    import transformers

    from fulgurite.data.encoding.tokenizers import load_tokenizer

    if not hasattr(transformers.models.qwen3_moe.modeling_qwen3_moe, "Qwen3MoeExperts"):
        pytest.skip("this version of transformers keeps experts as linear layers")
    folder = tmp_path_factory.mktemp("mixture")
    tokenizer = load_tokenizer("playground")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config: Any = transformers.Qwen3MoeConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        moe_intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        mlp_only_layers=[0],
        output_router_logits=True,
        router_aux_loss_coef=0.1,
        initializer_range=0.3,
    )
    transformers.Qwen3MoeForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_experts_are_fitted_and_leave_in_every_form(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    targets = r".*(q_proj|gate_proj|up_proj|down_proj|experts\.gate_up_proj)"
    model = ["--model", "SoRAModule", "--model.task", "causal_lm", "--model.backbone", str(base)]
    options = [
        "--model.rank",
        "4",
        "--model.targets",
        targets,
        "--model.learning_rate",
        "0.01",
        "--model.threshold",
        "0.1",
    ]
    data = ["--data", "UltraChatDataModule", "--data.path", "builtin", "--data.max_length", "64"]
    trainer = ["--trainer.max_steps", "8", "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    words = ["fit", *model, *options, *data, *trainer, "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(words) == 0, capsys.readouterr().err
    checkpoint = next((tmp_path / "run").rglob("last.ckpt"))
    expected = expected_logits(checkpoint)
    assert relative(logits_of(AutoModelForCausalLM.from_pretrained(base)), expected) > 1e-3
    capsys.readouterr()
    for form in ("merged", "peft", "adapter"):
        words = ["export", "--ckpt_path", str(checkpoint), "--format", form, "--out", str(tmp_path / form)]
        assert main(words) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "max |PEFT − adapter| = " in printed and "max |reloaded − adapter| = " in printed
    assert relative(logits_of(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")), expected) < CLOSE
    described = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert "experts.gate_up_proj" in described["target_parameters"] and described["target_modules"] == ["q_proj"]
    loaded = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "peft"))
    assert relative(logits_of(loaded), expected) < CLOSE
