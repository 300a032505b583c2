"""Backbones: new heads are found, dtypes are what was asked for, wrong checkpoints are named."""

from __future__ import annotations

import json

import pytest
import torch

from fulgurite.data.playground import resolve_backbone
from fulgurite.models import enable_activation_checkpointing, load_backbone


def test_new_heads_are_found_and_real_weights_loaded(minilm):
    loaded = load_backbone(minilm, "classification", num_labels=3)
    assert loaded.new_heads == ("classifier",)
    assert loaded.model.classifier.weight.shape == (3, 384)
    assert load_backbone(minilm, "regression").model.classifier.weight.shape == (1, 384)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_dtype_is_the_one_asked_for(dtype):
    model = load_backbone(resolve_backbone("playground"), "causal_lm", dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {getattr(torch, dtype)}


def test_from_scratch_draws_new_weights():
    torch.manual_seed(0)
    first = load_backbone(resolve_backbone("playground"), "causal_lm", from_scratch=True).model
    trained = load_backbone(resolve_backbone("playground"), "causal_lm").model
    a, b = first.get_input_embeddings().weight, trained.get_input_embeddings().weight
    assert a.shape == b.shape and not torch.allclose(a, b)


@pytest.mark.real_data
def test_real_llama_decodes_its_golden_tokens(real_data):
    folder = real_data / "models" / "aidreams260K" / "hf_converted"
    model = load_backbone(str(folder), "causal_lm").model.eval()
    golden = json.loads((folder / "golden_greedy.json").read_text())
    ids = torch.tensor([golden["ids"]])
    predicted = model(ids).logits.argmax(-1)[0]
    start = len(golden["ids"]) // 2
    assert predicted[start:-1].tolist() == golden["ids"][start + 1 :]


def test_a_checkpoint_of_another_architecture_is_refused(minilm, tmp_path):
    from pathlib import Path

    config = json.loads((Path(minilm) / "config.json").read_text())
    config.update(
        model_type="distilbert", architectures=["DistilBertModel"], dim=384, n_layers=6, n_heads=12, hidden_dim=1536
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").symlink_to(Path(minilm) / "model.safetensors")
    with pytest.raises(ValueError, match="its weights are of another architecture"):
        load_backbone(str(tmp_path), "classification", num_labels=2)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (("playground", "summarise"), ValueError, "'classification', 'regression'"),
        (("no/such/folder", "causal_lm"), FileNotFoundError, "neither a folder nor a model"),
    ],
)
def test_bad_arguments(arguments, error, words):
    with pytest.raises(error, match=words):
        load_backbone(*arguments)


def test_bad_labels_dtype_and_empty_folder(tmp_path):
    with pytest.raises(ValueError, match="at least 2 classes"):
        load_backbone("x", "classification", num_labels=1)
    with pytest.raises(ValueError, match="'bfloat16'"):
        load_backbone("x", "causal_lm", dtype="int8")
    with pytest.raises((FileNotFoundError, ValueError)):
        load_backbone(str(tmp_path), "causal_lm")


def test_checkpointing_of_a_model_that_cannot_is_refused():
    with pytest.raises(ValueError, match="does not support it"):
        enable_activation_checkpointing(torch.nn.Linear(2, 2))


def test_folders_that_hold_no_model_are_named(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no config\.json.*save_pretrained"):
        load_backbone(str(tmp_path), "causal_lm")
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"give the checkpoint, .*checkpoints/last\.ckpt"):
        load_backbone(str(tmp_path), "causal_lm")
    (tmp_path / "adapter_config.json").write_text("{}")
    for task in ("causal_lm", "classification"):
        with pytest.raises(ValueError, match="holds an adapter, not a model"):
            load_backbone(str(tmp_path), task, num_labels=2)
    from fulgurite.models import load_reward_model

    with pytest.raises(ValueError, match="holds an adapter, not a model"):
        load_reward_model(str(tmp_path))


def test_a_task_that_the_architecture_does_not_have():
    with pytest.raises(ValueError, match="is a llama model, which AutoModelForSeq2SeqLM does not have"):
        load_backbone(resolve_backbone("playground"), "seq2seq")
