"""GGUF backbones: the logits are the file's model's, also with stretched positions, and what would be left out is refused."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from fulgurite.data.encoding.tokenizers import load_tokenizer
from fulgurite.data.playground import resolve_backbone
from fulgurite.generation.loading import load_for_generation
from fulgurite.models import load_backbone, load_reward_model
from fulgurite.models.gguf import read_config
from tests.models.gguf_writer import write_gguf

pytest.importorskip("gguf")
IDS = torch.arange(7, 207).view(2, 100)


@pytest.fixture(scope="module")
def base() -> Any:
    return load_backbone(resolve_backbone("playground"), "causal_lm").model.eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits


def test_the_file_is_the_model_and_its_tokenizer(base: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write_gguf(base, tmp_path / "tiny.gguf")
    with caplog.at_level(logging.WARNING):
        loaded = load_backbone(str(file), "causal_lm")
        load_backbone(str(tmp_path), "causal_lm")
    assert loaded.new_heads == () and torch.equal(logits(loaded.model), logits(base))
    assert not hasattr(loaded.model.config, "quantization_config") and loaded.model.config.name_or_path == str(file)
    said = [record.getMessage() for record in caplog.records if "GGUF" in record.getMessage()]
    assert len(said) == 1 and "stored mostly as F32: its 38 tensors are held in full, as float32" in said[0]
    mine, theirs = load_tokenizer(str(file)), load_tokenizer("playground")
    text = "The red ball was 1234 steps away; wasn't it?\n\tdef f(x): return x ** 2"
    assert mine(text).input_ids == theirs(text).input_ids and mine.chat_template == theirs.chat_template
    assert load_for_generation(str(file)).tokenizer.eos_token_id == theirs.eos_token_id


def test_quantised_weights_are_those_of_stock_transformers(base: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_gguf(base, tmp_path / "tiny.gguf", "Q8_0")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    mine = load_backbone(str(tmp_path), "causal_lm").model
    assert torch.equal(logits(mine), logits(stock)) and not torch.equal(logits(mine), logits(base))
    assert load_backbone(str(tmp_path), "causal_lm", dtype="bfloat16").model.dtype == torch.bfloat16
    classifier = load_backbone(str(tmp_path), "classification", num_labels=3)
    assert classifier.new_heads == ("score",) and classifier.model.score.weight.shape == (3, 128)
    weight = classifier.model.model.layers[2].mlp.up_proj.weight
    assert torch.equal(weight, mine.model.layers[2].mlp.up_proj.weight)
    assert load_reward_model(str(tmp_path)).new_heads == ("regression_head",)


def stretched(base: Any, scaling: dict[str, Any]) -> Any:
    """The same weights in a model whose positions are stretched."""
    config = copy.deepcopy(base.config)
    config.rope_parameters = {**config.rope_parameters, **scaling}
    model = type(base)(config)
    model.load_state_dict(base.state_dict())
    return model.eval()


def llama3_factors(model: Any, base: Any) -> torch.Tensor:
    return base.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq


@pytest.mark.parametrize("factor", [8.0, 32.0])
def test_positions_of_llama3_are_stretched(base: Any, tmp_path: Path, factor: float) -> None:
    scaling = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    model = stretched(base, {**scaling, "original_max_position_embeddings": 8192})
    factors = llama3_factors(model, base)
    assert factors.max() > 1.5  # else the test shows nothing
    file = write_gguf(model, tmp_path / "a.gguf", tokenizer=None, tensors={"rope_freqs.weight": factors})
    loaded = load_backbone(str(file), "causal_lm").model
    torch.testing.assert_close(loaded.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)
    torch.testing.assert_close(logits(loaded), logits(model))


def test_linear_and_yarn_are_read_and_other_stretches_refused(base: Any, tmp_path: Path) -> None:
    model = stretched(base, {"rope_type": "linear", "factor": 4.0})
    keys = {"rope__scaling__type": "linear", "rope__scaling__factor": 4.0}
    loaded = load_backbone(str(write_gguf(model, tmp_path / "a.gguf", tokenizer=None, **keys)), "causal_lm").model
    assert torch.equal(logits(loaded), logits(model)) and not torch.allclose(logits(loaded), logits(base))
    keys = {"rope__scaling__type": "longrope", "rope__scaling__factor": 4.0}
    with pytest.raises(ValueError, match="stretches its positions by 'longrope'"):
        read_config(str(write_gguf(model, tmp_path / "b.gguf", tokenizer=None, **keys)))
    strange = {"rope_freqs.weight": torch.full((16,), 3.0)}
    with pytest.raises(ValueError, match=r"factors \(rope_freqs\.weight\) that are not Llama 3's"):
        read_config(str(write_gguf(model, tmp_path / "c.gguf", tokenizer=None, tensors=strange)))


def test_weights_without_a_place_and_unknown_architectures_are_refused(base: Any, tmp_path: Path) -> None:
    biases = {f"blk.{i}.attn_q.bias": torch.ones(128) for i in range(4)}
    with pytest.raises(ValueError, match="it would compute something else than the file's model"):
        load_backbone(str(write_gguf(base, tmp_path / "a.gguf", tokenizer=None, tensors=biases)), "causal_lm")
    file = write_gguf(base, tmp_path / "b.gguf", architecture="plamo9")
    for load in (lambda: load_backbone(str(file), "causal_lm"), lambda: load_for_generation(str(file))):
        with pytest.raises(
            ValueError, match="of the architecture 'plamo9', which this version of transformers"
        ) as caught:
            load()
        assert "\n" not in str(caught.value)
