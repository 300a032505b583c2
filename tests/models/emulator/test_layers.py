"""Layers found by structure, and the models that are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from fulgurite.models.emulator.folder import emulator_of, write_emulator
from fulgurite.models.emulator.layers import find_layers
from fulgurite.models.emulator.stacking import restack
from tests.models.emulator.families import FAMILIES, family
from tests.models.tiny import build


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layers_of_each_family(name: str) -> None:
    found = find_layers(family(name))
    expected = {"opt": "model.decoder.layers", "gpt2": "transformer.h", "bloom": "transformer.h"}
    assert found.name == (expected | {"gpt_neox": "gpt_neox.layers"}).get(name, "model.layers")
    assert len(found.modules) == 6


def test_an_encoder_is_refused() -> None:
    from transformers import BertConfig, BertLMHeadModel

    torch.manual_seed(0)
    sizes = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=48)
    with pytest.raises(ValueError, match="it is an encoder, which predicts no next token"):
        find_layers(BertLMHeadModel(BertConfig(vocab_size=67, **sizes)))


def test_an_encoder_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a decoder"):
        find_layers(build("t5"))


def test_a_network_without_a_configuration_is_refused() -> None:
    with pytest.raises(ValueError, match="is not a decoder"):
        find_layers(nn.Linear(2, 2))


def test_layers_that_cannot_be_found_are_refused() -> None:
    model = family("llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(ValueError, match=r"cannot be found: .*num_hidden_layers=5.*model.layers of 6"):
        find_layers(model)


def test_shared_layers_are_refused() -> None:
    model = family("llama")
    layers = find_layers(model).modules
    layers[4] = layers[1]
    with pytest.raises(ValueError, match="layers 1 and 4 of LlamaForCausalLM share parameters"):
        find_layers(model)
    model = family("llama")
    layers = find_layers(model).modules
    layers[3].mlp.up_proj.weight = layers[2].mlp.up_proj.weight
    with pytest.raises(ValueError, match="layers 2 and 3"):
        find_layers(model)


def test_layers_that_compute_by_their_number_are_refused(tmp_path: Path) -> None:
    model = family("gpt2", scale_attn_by_inverse_layer_idx=True)
    # Before transformers 5 already in memory, since then when what was written is loaded.
    with pytest.raises(ValueError, match=r"compute by their number|computes other logits than its layers in memory"):
        write_emulator(model, emulator_of(model, "full", [0, 2, 5], [0, 5], "choose", "crash").manifest, tmp_path)
    restack(model, range(6))


def test_the_model_itself_stays_as_it_was() -> None:
    model = family("qwen2")
    numbers = [layer.self_attn.layer_idx for layer in find_layers(model).modules]
    types = list(model.config.layer_types)
    made = restack(model, [0, 5, 5])
    assert made.config.num_hidden_layers == 3 and made.config.layer_types == [types[0], types[5], types[5]]
    assert model.config.num_hidden_layers == 6 and model.config.layer_types == types
    assert [layer.self_attn.layer_idx for layer in find_layers(model).modules] == numbers == list(range(6))
    assert [layer.self_attn.layer_idx for layer in made.model.layers] == [0, 1, 2]
