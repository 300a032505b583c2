"""Reward models on disk and in memory: both layouts round-trip, padding changes nothing, a lost or foreign head is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from fulgurite.models import RewardModel, load_reward_model, save_reward_model, save_sequence_classification
from tests.models.tiny import build

IDS = torch.tensor([[5, 9, 12, 33, 8], [7, 11, 0, 0, 0], [2, 3, 2, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])


def reward_model(name="llama"):
    model = build(name).eval()
    return RewardModel(getattr(model, model.base_model_prefix)).eval()


@torch.no_grad()
def rewards(model, ids=IDS, mask=MASK):
    return model.eval()(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("name", ["llama", "gpt2", "bloom", "cohere"])
def test_the_regression_head_layout_round_trips(tmp_path, name):
    model = reward_model(name)
    save_reward_model(model, tmp_path)
    keys = set(load_file(tmp_path / "model.safetensors"))
    assert "regression_head.weight" in keys and all(k.startswith("model.") for k in keys - {"regression_head.weight"})
    again = load_reward_model(str(tmp_path), require_head=True)
    assert again.new_heads == ("regression_head",)
    torch.testing.assert_close(rewards(again.model), rewards(model), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral"])
def test_the_sequence_classification_layout_round_trips_and_transformers_reads_it(tmp_path, name):
    model = reward_model(name)
    save_sequence_classification(model, tmp_path, 0, {2})
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"][0].endswith("ForSequenceClassification") and config["pad_token_id"] == 0
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.num_labels == 1
    torch.testing.assert_close(rewards(theirs), rewards(model), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rewards(load_reward_model(str(tmp_path), require_head=True).model), rewards(model))


def test_a_published_ultrarm_layout_in_shards_loads(tmp_path):
    """As UltraRM lies on the hub: pickled shards with an index, an auto_map, and buffers of older versions."""
    model = reward_model()
    save_reward_model(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(4)
    names = sorted(state)
    parts = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, keys in parts.items():
        torch.save({key: state[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in parts.items() for key in keys}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"architectures": ["LlamaRewardModel"], "auto_map": {"AutoModel": "modeling.LlamaRewardModel"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    torch.testing.assert_close(rewards(load_reward_model(str(tmp_path)).model), rewards(model), rtol=0, atol=0)


def test_the_reward_is_that_of_the_last_real_token_wherever_padding_stands():
    model = reward_model()
    left = torch.stack([row.roll(int((mask == 0).sum())) for row, mask in zip(IDS, MASK, strict=True)])
    left_mask = torch.stack([mask.roll(int((mask == 0).sum())) for mask in MASK])
    alone = torch.stack([rewards(model, r[m.bool()][None], None)[0] for r, m in zip(IDS, MASK, strict=True)])
    torch.testing.assert_close(rewards(model), alone)
    positions = (left_mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        found = model(input_ids=left, attention_mask=left_mask, position_ids=positions).logits
    torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-5)
    # Token 2 is eos; a row that ends with it, padded with it, still has the reward of its own last token.
    ids = IDS.masked_fill(MASK == 0, 2)
    torch.testing.assert_close(rewards(model, ids)[2], alone[2])


def test_half_precision_weights_give_float32_rewards():
    model = reward_model().to(torch.bfloat16)
    found = rewards(model)
    assert found.dtype == torch.float32
    states = model(input_ids=IDS, attention_mask=MASK).last_hidden_state[0, -1].float()
    torch.testing.assert_close(found[0], states @ model.regression_head.weight.float().T, rtol=1e-5, atol=1e-6)


def test_an_encoders_own_classifier_is_kept_and_a_plain_encoder_gets_the_last_token(tmp_path):
    config = BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48, num_labels=1
    )
    theirs = BertForSequenceClassification(config).eval()
    theirs.save_pretrained(tmp_path / "classifier")
    loaded = load_reward_model(str(tmp_path / "classifier"), require_head=True)
    assert isinstance(loaded.model, BertForSequenceClassification) and "classifier" in loaded.new_heads
    torch.testing.assert_close(rewards(loaded.model), rewards(theirs))
    with pytest.raises(ValueError, match="head='last_token' was asked for"):
        load_reward_model(str(tmp_path / "classifier"), head="last_token")
    theirs.bert.save_pretrained(tmp_path / "plain")
    plain = load_reward_model(str(tmp_path / "plain"))
    assert plain.new_heads == ("regression_head",) and plain.model.model.pooler is None
    own = load_reward_model(str(tmp_path / "plain"), head="classifier")
    assert "classifier" in own.new_heads
    with pytest.raises(ValueError, match="holds no reward head"):
        load_reward_model(str(tmp_path / "plain"), require_head=True)
    with pytest.raises(ValueError, match="not a head on the last token; use the layout"):
        save_sequence_classification(plain.model, tmp_path, 0, {1})


def test_a_tensor_with_two_names_is_stored_once_and_loads(tmp_path):
    import transformers

    config = transformers.BartConfig(
        vocab_size=40, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=1,
    )  # fmt: skip
    model = RewardModel(transformers.BartModel(config)).eval()
    save_reward_model(model, tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) < len(model.state_dict())
    again = load_reward_model(str(tmp_path)).model
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_lost_and_foreign_heads_are_refused(tmp_path):
    model = reward_model()
    save_reward_model(model, tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    wide = {**state, "regression_head.weight": torch.zeros(1, 33)}
    save_file(wide, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"a reward head of shape \(1, 33\), and the model needs \(1, 32\)"):
        load_reward_model(str(tmp_path))
    save_file({k: v for k, v in state.items() if k != "regression_head.weight"}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="the head is lost"):
        load_reward_model(str(tmp_path))
    part = {k: v for k, v in state.items() if k != "model.norm.weight"}
    save_file(part, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks 1 tensors of LlamaModel, the first is 'model.norm.weight'"):
        load_reward_model(str(tmp_path))


def test_more_labels_an_unsaved_classifier_and_padding_with_the_end_are_refused(tmp_path):
    model = reward_model()
    save_sequence_classification(model, tmp_path, 0, {2})
    state = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in state.items() if k != "score.weight"}, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"lack score; the reward head is lost"):
        load_reward_model(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"id2label": {"0": "a", "1": "b", "2": "c"}, "label2id": {"a": 0, "b": 1, "c": 2}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="a head of 3 labels; a reward model has one"):
        load_reward_model(str(tmp_path))
    with pytest.raises(ValueError, match="pads with token 2, which is also what texts end with"):
        save_sequence_classification(model, tmp_path, 2, {2})
    with pytest.raises(ValueError, match="head='first'"):
        load_reward_model(str(tmp_path), head="first")
    with pytest.raises(FileNotFoundError):
        load_reward_model(str(Path(tmp_path) / "nowhere"))


def test_a_causal_checkpoint_of_a_language_model_keeps_its_backbone(tmp_path):
    model = build("gpt2").eval()
    model.save_pretrained(tmp_path)
    loaded = load_reward_model(str(tmp_path))
    base = AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        states = loaded.model.eval()(input_ids=IDS).last_hidden_state
        torch.testing.assert_close(states, base(input_ids=IDS).last_hidden_state)
