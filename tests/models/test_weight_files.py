"""Weights that cannot be weights, or that are not whole, are refused in one sentence that names file and tensor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fulgurite.generation.loading import load_for_generation
from fulgurite.models import load_backbone, load_reward_model
from fulgurite.models.weight_files import check_finite, check_peft_file, weight_files
from tests.models.tiny import VOCABULARY

_Q = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny Llama as save_pretrained writes it."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
    )
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=0, **sizes)).save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def change(folder: Path, **changed: Any) -> Path:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    for key, value in changed.items():
        tensors[key.replace("__", ".")] = value(tensors[key.replace("__", ".")])
    save_file(tensors, file, {"format": "pt"})
    return file


def spoilt(value: float) -> Any:
    def spoil(tensor: torch.Tensor) -> torch.Tensor:
        tensor[3, 5] = value
        return tensor

    return spoil


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_with_nan_or_infinity_is_named_with_its_file(folder: Path, value: float) -> None:
    file = change(folder, **{_Q.replace(".", "__"): spoilt(value)})
    for load in (lambda: load_backbone(str(folder), "causal_lm"), lambda: load_for_generation(str(folder))):
        with pytest.raises(ValueError, match=rf"^backbone: {file}: {_Q} holds NaN or infinity.*download"):
            load()
    with pytest.raises(ValueError, match=r"q_proj\.weight holds NaN"):
        load_backbone(str(folder), "causal_lm", dtype="bfloat16")
    with pytest.raises(ValueError, match=r"q_proj\.weight holds NaN"):  # its base is loaded under another prefix
        load_reward_model(str(folder))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.uint8, torch.bool, torch.int64])
def test_whole_numbers_in_the_place_of_weights_are_refused(folder: Path, dtype: torch.dtype) -> None:
    file = change(folder, **{_Q.replace(".", "__"): lambda tensor: (tensor * 100).to(dtype)})
    with pytest.raises(ValueError, match=rf"^backbone: {file}: {_Q} is of type [BIU]\w+; weights are floating-point"):
        load_backbone(str(folder), "causal_lm")


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_stored_causal_masks_are_no_weights(tmp_path: Path, dtype: torch.dtype) -> None:
    """GPT-2, GPT-NeoX (Pythia) and their kin have them as attn.bias in published files."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32))
    model.save_pretrained(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    masks = {f"transformer.h.{i}.attn.bias": torch.ones(1, 1, 32, 32).tril().to(dtype) for i in range(2)}
    save_file({**load_file(file), **masks}, file, {"format": "pt"})
    loaded = load_backbone(str(tmp_path / "m"), "causal_lm").model
    assert torch.equal(loaded.state_dict()["transformer.h.1.mlp.c_fc.weight"], model.transformer.h[1].mlp.c_fc.weight)
    change(tmp_path / "m", transformer__h__1__mlp__c_fc__bias=lambda tensor: tensor.to(torch.int32))
    with pytest.raises(ValueError, match=r"h\.1\.mlp\.c_fc\.bias is of type I32"):
        load_backbone(str(tmp_path / "m"), "causal_lm")


def test_what_only_the_dtype_makes_infinite_is_told_apart(folder: Path) -> None:
    change(folder, **{_Q.replace(".", "__"): lambda tensor: tensor + 1e6})
    with pytest.raises(ValueError, match=rf"{_Q} of .* does not fit into float16 and became infinite.*bfloat16"):
        load_backbone(str(folder), "causal_lm", dtype="float16")
    assert check_finite(load_backbone(str(folder), "causal_lm", dtype="bfloat16").model) is None


def test_large_sums_of_finite_weights_are_no_infinity(folder: Path) -> None:
    change(folder, **{_Q.replace(".", "__"): lambda tensor: torch.full_like(tensor, 60000.0)})
    load_backbone(str(folder), "causal_lm", dtype="float16")
    change(folder, **{_Q.replace(".", "__"): lambda tensor: torch.full_like(tensor, 3e38)})
    load_backbone(str(folder), "causal_lm")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def cut_in_header(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def pointed(file: Path) -> None:
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def scribbled(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8:40] = b"x" * 32
    file.write_bytes(bytes(content))


DAMAGE = {
    cut: r"is not whole: it has [\d,]+ bytes, and its header names [\d,]+",
    cut_in_header: "not a whole safetensors file",
    emptied: "not a whole safetensors file",
    pointed: "pointer of Git LFS.*git lfs pull",
    scribbled: "is no safetensors file",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_not_whole_is_named(folder: Path, damage: Any) -> None:
    file = folder / "model.safetensors"
    damage(file)
    for load in (load_backbone, lambda *_: load_for_generation(str(folder)), lambda *_: load_reward_model(str(folder))):
        with pytest.raises(ValueError, match=rf"^backbone: {file} .*{DAMAGE[damage]}"):
            load(str(folder), "causal_lm")


def split(folder: Path) -> tuple[Path, Path]:
    """Two shards with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {key: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, key in enumerate(sorted(tensors))}
    shards = sorted(set(places.values()))
    for shard in shards:
        save_file({k: v for k, v in tensors.items() if places[k] == shard}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / shards[0], folder / shards[1]


def test_shards_are_looked_at_one_by_one(folder: Path) -> None:
    whole = load_backbone(str(folder), "causal_lm").model.state_dict()
    first, second = split(folder)
    again = load_backbone(str(folder), "causal_lm").model.state_dict()
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(FileNotFoundError, match=rf"index.json names the file {second.name}, which is not there"):
        load_backbone(str(folder), "causal_lm")
    second.write_bytes(kept[:-1])
    with pytest.raises(ValueError, match=rf"{second.name} is not whole"):
        load_backbone(str(folder), "causal_lm")
    shutil.copy(first, second)
    with pytest.raises(ValueError, match=rf"says that .* stands in {second.name}, which does not hold it"):
        load_backbone(str(folder), "causal_lm")
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="is no index of weights"):
        load_backbone(str(folder), "causal_lm")


def test_a_lost_embedding_is_not_trained_as_a_new_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    for task in ("causal_lm", "regression"):
        with pytest.raises(ValueError, match=r"hold no input embedding \(model\.embed_tokens\)"):
            load_backbone(str(folder), task)


def test_pickled_weights_are_looked_at_too(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    file = folder / "pytorch_model.bin"
    torch.save(tensors, file)
    load_backbone(str(folder), "causal_lm")
    torch.save({**tensors, _Q: tensors[_Q].int()}, file)
    with pytest.raises(ValueError, match=rf"^backbone: {file}: {_Q} is of type I32"):
        load_backbone(str(folder), "causal_lm")
    torch.save({**tensors, _Q: tensors[_Q] * torch.nan}, file)
    with pytest.raises(ValueError, match=rf"^backbone: {file}: {_Q} holds NaN"):
        load_backbone(str(folder), "causal_lm")
    cut(file)
    with pytest.raises(ValueError, match=rf"^backbone: {file} is not a whole file of weights"):
        load_backbone(str(folder), "causal_lm")


def test_the_head_of_a_reward_model_too(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors = {**tensors, "regression_head.weight": torch.full((1, 16), torch.nan)}
    tensors.pop("lm_head.weight")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"regression_head\.weight holds NaN"):
        load_reward_model(str(folder))


def test_integers_that_are_meant_as_such_stay(folder: Path) -> None:
    """Positions are kept in many files of BERT's kin."""
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, "model.position_ids": torch.arange(8)}, folder / "model.safetensors", {"format": "pt"})
    load_backbone(str(folder), "causal_lm")
    assert weight_files(str(folder)).types[folder / "model.safetensors"]["model.position_ids"] == "I64"


@pytest.mark.parametrize(
    ("value", "words"),
    [(torch.full((2, 4), torch.nan), "holds NaN"), (torch.ones(2, 4, dtype=torch.int32), "is of type int32")],
)
def test_adapters_of_peft_too(tmp_path: Path, value: torch.Tensor, words: str) -> None:
    file = tmp_path / "adapter_model.safetensors"
    save_file({"base_model.model.l.lora_A.weight": value}, file)
    with pytest.raises(ValueError, match=rf"^here: {file}: .*lora_A.weight {words}"):
        check_peft_file(tmp_path, "here")
    save_file({"base_model.model.l.lora_A.weight": torch.ones(2), "l.shira_indices": torch.arange(2)}, file)
    check_peft_file(tmp_path, "here")
    cut(file)
    with pytest.raises(ValueError, match=rf"^here: {file} is not whole"):
        check_peft_file(tmp_path, "here")
