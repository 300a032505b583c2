"""Exported text models stop where the chat template ends a turn, in stock transformers; and what leaves needs no merge."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.cli import main
from fulgurite.commands.export.stops import check_stops
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from tests.commands.fit.runs import checkpoint_of

# A turn ends with <|end|>, a special token of the playground's tokenizer that is not its eos.
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def module_of(**options: Any) -> Any:
    from fulgurite.adapters import LoRA, find_adapters
    from fulgurite.lightning_modules import SFTModule

    torch.manual_seed(0)
    module = SFTModule("playground", adapter=LoRA(rank=2, **options))
    module.configure_model()
    for adapter in find_adapters(module):
        for branch in adapter.branches.values():
            torch.nn.init.normal_(branch.lora_b, std=0.02)
    return module


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    module = module_of()
    module.chat_template = TEMPLATE
    return checkpoint_of(module, tmp_path / "last.ckpt")


@pytest.mark.slow
def test_every_end_token_is_in_the_generation_config(checkpoint: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig

    for format in ("merged", "peft"):
        out = tmp_path / format
        assert main(["export", "--ckpt_path", str(checkpoint), "--out", str(out), "--format", format]) == 0
        tokenizer = load_tokenizer(str(out))
        assert tokenizer.chat_template == TEMPLATE
        ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|end|>")}
        assert len(ends) == 2 and set(GenerationConfig.from_pretrained(out).eos_token_id) >= ends
        if format == "merged":
            stock: Any = AutoModelForCausalLM.from_pretrained(out)
            assert set(stock.generation_config.eos_token_id) >= ends
        else:
            stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(resolve_backbone("playground")), out)
        check_stops(stock, out, tokenizer)
        GenerationConfig(eos_token_id=tokenizer.eos_token_id).save_pretrained(out)
        with pytest.raises(ValueError, match=r"does not stop at '<\|end\|>', which ends a turn"):
            check_stops(stock, out, tokenizer)


@pytest.mark.parametrize("format", ["peft", "adapter"])
def test_an_adapter_that_cannot_be_merged_leaves_by_itself(
    tmp_path: Path, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """LoRA on a head that is tied to the embedding."""
    file = checkpoint_of(module_of(targets=r"lm_head"), tmp_path / "last.ckpt")
    words = ["export", "--ckpt_path", str(file), "--out"]
    assert main([*words, str(tmp_path / "out"), "--format", format]) == 0, capsys.readouterr().err
    assert f"max |{'PEFT' if format == 'peft' else 'reloaded'} − adapter|" in capsys.readouterr().out
    assert main([*words, str(tmp_path / "merged"), "--format", "merged"]) == 1
    assert "lm_head is tied to another module" in capsys.readouterr().err and not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_ranks_of_their_own_warn_of_vllm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkpoint_of(module_of(), tmp_path / "last.ckpt")
    words = ["export", "--ckpt_path", str(file), "--out"]
    assert main([*words, str(tmp_path / "padded")]) == 0 and "vLLM" not in capsys.readouterr().out
    assert main([*words, str(tmp_path / "own"), "--rank_pattern"]) == 0
    assert "vLLM ignores them" in capsys.readouterr().out
