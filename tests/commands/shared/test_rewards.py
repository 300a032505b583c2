"""What --reward names: implicit rewards of a model or an adapter against its reference, and one sentence for what does not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fulgurite.adapters import LoRA, attach
from fulgurite.commands.shared.options import ComputeOptions, RewardOptions
from fulgurite.commands.shared.rewards import load_scorer
from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.data.records.conversation import Turn
from fulgurite.evaluation.selection.scorers import Asked, rewards_of
from fulgurite.models import load_backbone

CPU = ComputeOptions(device="cpu")
ASKED = [Asked((Turn("user", "What is 2 + 3?"),), text, "row 1") for text in ("5", "yes it is")]


def scored(**options: Any) -> list[float | None]:
    return rewards_of(load_scorer("test", RewardOptions(**options), CPU), ASKED)


def test_an_adapter_and_what_it_makes_of_its_base_have_the_same_implicit_reward(tmp_path: Path) -> None:
    model: Any = load_backbone(resolve_backbone("playground"), "causal_lm").model
    adapter = attach(model, LoRA(rank=2))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("lora_b"):
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    adapter.save(tmp_path / "adapter")
    adapter.merge()
    adapter.detach()
    model.save_pretrained(tmp_path / "merged")
    load_tokenizer("playground").save_pretrained(tmp_path / "merged")
    apart = scored(reward=str(tmp_path / "adapter"), reward_reference="playground")
    whole = scored(reward=str(tmp_path / "merged"), reward_reference="playground")
    assert apart == pytest.approx(whole, abs=1e-4) and all(abs(reward or 0) > 1e-3 for reward in apart)
    assert scored(reward="playground", reward_reference="playground") == pytest.approx([0.0, 0.0], abs=1e-6)
    mean = scored(reward=str(tmp_path / "merged"), reward_reference="playground", reward_mean=True)
    assert 0 < abs(mean[1] or 0) < abs(whole[1] or 0)


def test_a_reference_with_another_tokenizer_is_refused(tmp_path: Path, word_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(str(word_tokenizer))
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
        )
    ).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="have tokenizers with other tokens"):
        scored(reward="playground", reward_reference=str(tmp_path))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reward": "http://127.0.0.1:1"}, "without the name of the model there; give --reward_served_model"),
        (
            {"reward": "playground", "reward_served_model": "rm"},
            "'rm' is the name of a served model, and playground is no",
        ),
        ({"reward": "task:gsm9k"}, "no task 'gsm9k'"),
        ({"reward": "playground", "reward_max_length": 1}, "reward_max_length=1"),
        ({"reward": "last.ckpt", "reward_reference": "playground"}, "a checkpoint, which knows its reference"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scored(**options)


def test_a_language_model_is_no_reward_model() -> None:
    with pytest.raises(ValueError, match="head"):
        scored(reward="playground")
