"""Emulators of eight families: what they compute, what is held once, what is written, what is refused when loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fulgurite.models import load_backbone
from fulgurite.models.emulator.folder import emulator_of, load_emulator, write_emulator
from fulgurite.models.emulator.layers import find_layers
from tests.models.emulator.families import FAMILIES, family
from tests.models.tiny import VOCABULARY

KEPT, TRAINED = [0, 2, 4, 5], [0, 4, 5]
SHARING = ("choose", "repeat-all", "repeat-non-trainable")
IDS = torch.arange(3, 3 + 18).reshape(2, 9) % VOCABULARY


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def skipping(model: Any, removed: set[int]) -> torch.Tensor:
    """The full model's logits with layers whose output is replaced by their input: removal as the paper defines it."""

    def pass_by(module, args, kwargs, output):
        states = args[0] if args else kwargs["hidden_states"]
        return (states, *output[1:]) if isinstance(output, tuple) else states

    layers = find_layers(model).modules
    hooks = [layers[i].register_forward_hook(pass_by, with_kwargs=True) for i in removed]
    try:
        return logits(model)
    finally:
        for hook in hooks:
            hook.remove()


@pytest.mark.parametrize("name", FAMILIES)
def test_kept_layers_compute_what_the_full_model_does_without_the_others(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    full = family(name)
    found = emulator_of(full, "somebody/full", KEPT, TRAINED, "choose", "crash")
    assert torch.equal(logits(found.model), skipping(full, {1, 3}))
    write_emulator(full, found.manifest, tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    assert torch.equal(logits(plain), logits(found.model))
    assert found.manifest.origin == "full" and found.manifest.disclosed_bytes < found.manifest.full_bytes
    assert found.manifest.disclosed_bytes == 4 * sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize(
    ("name", "sharing"), [*((name, "repeat-all") for name in FAMILIES), ("qwen2", "repeat-non-trainable")]
)
def test_shared_layers_are_one_object_and_one_copy_on_disk(name: str, sharing: str, tmp_path: Path) -> None:
    full = family(name)
    made = emulator_of(full, "full", KEPT, TRAINED, sharing, "crash")
    write_emulator(full, made.manifest, tmp_path)
    found = load_emulator(tmp_path)
    sources = {"repeat-all": [0, 2, 2, 4, 4, 5], "repeat-non-trainable": [0, 2, 2, 2, 4, 5]}[sharing]
    assert found.manifest == made.manifest and found.manifest.sources == sources
    assert torch.equal(logits(found.model), logits(made.model))
    layers = found.model.get_submodule(found.manifest.layers_name)
    first, copied = list(layers[2].parameters()), list(layers[3].parameters())
    assert all(a is b for a, b in zip(layers[1].parameters(), first, strict=True))
    if sharing == "repeat-all":  # a frozen copy of a trained layer
        trained = list(layers[4].parameters())
        assert not any(a is b for a, b in zip(trained, copied, strict=True))
        assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(trained, copied, strict=True))
    else:
        assert all(a is b for a, b in zip(copied, first, strict=True))
    with safe_open(tmp_path / "layers" / "model.safetensors", "pt") as stored:
        size = sum(stored.get_tensor(key).numel() for key in stored.keys())  # noqa: SIM118  not a dictionary
    assert 4 * size == found.manifest.disclosed_bytes
    # Beside the weights on the disk memory holds nothing but the frozen copies.
    copies = sum(p.numel() for p in copied) if sharing == "repeat-all" else 0
    assert sum(p.numel() for p in found.model.parameters()) == size + copies


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "bloom", "gpt_neox"])
def test_a_shared_emulator_writes_the_same_with_and_without_a_cache(name: str) -> None:
    model: Any = emulator_of(family(name), "full", KEPT, TRAINED, "repeat-all", "crash").model
    options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(IDS[:1])}
    assert torch.equal(
        model.generate(IDS[:1], use_cache=True, **options), model.generate(IDS[:1], use_cache=False, **options)
    )


@pytest.mark.parametrize("name", ["gemma2", "opt"])
def test_all_layers_kept_are_the_full_model(name: str) -> None:
    full = family(name)
    for sharing in SHARING:
        found = emulator_of(full, "full", list(range(6)), [0, 3, 5], sharing, "uniform")
        assert torch.equal(logits(found.model), logits(full))


def test_training_a_layer_changes_no_place_that_stands_in_for_a_removed_one() -> None:
    full = family("llama")
    model, manifest = emulator_of(full, "full", KEPT, TRAINED, "repeat-all", "crash")
    layers: Any = model.get_submodule(manifest.layers_name)
    before = {place: {n: p.detach().clone() for n, p in layers[place].named_parameters()} for place in (1, 2, 3)}
    with torch.no_grad():
        for place in manifest.trained_places:
            for p in layers[place].parameters():
                p.add_(1.0)
    for place, values in before.items():
        assert all(torch.equal(p, values[n]) for n, p in layers[place].named_parameters())


@pytest.fixture(params=["choose", "repeat-all"])
def folder(request, tmp_path: Path) -> Path:
    full = family("llama")
    target = tmp_path / "emulator"
    target.mkdir()
    write_emulator(full, emulator_of(full, "full", KEPT, TRAINED, request.param, "crash").manifest, target)
    return target


def weights(folder: Path) -> Path:
    return next(folder.rglob("model.safetensors"))


def test_a_half_written_emulator_is_refused(folder: Path) -> None:
    data = weights(folder).read_bytes()
    weights(folder).write_bytes(data[: len(data) // 2])
    with pytest.raises(ValueError, match="is not whole"):
        load_emulator(folder)
    next(folder.rglob("config.json")).unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no config.json, so that the emulator is half-written"):
        load_emulator(folder)
    (folder / "emulator.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds no emulator.json"):
        load_emulator(folder)


@pytest.mark.parametrize(
    ("key", "words"), [("layers.1.mlp.up_proj.weight", "layer 2"), ("embed_tokens.weight", "the embeddings and head")]
)
def test_weights_of_another_base_are_refused_by_layer(folder: Path, key: str, words: str) -> None:
    tensors = load_file(weights(folder))
    tensors[f"model.{key}"][0, 0] += 1e-6
    save_file(tensors, weights(folder), {"format": "pt"})
    with pytest.raises(ValueError, match=f"the weights of {words} are not those that its manifest describes"):
        load_emulator(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m | {"format": 2}, "no manifest of an emulator in format 1"),
        (lambda m: m | {"trained": [1]}, "damaged"),
        (lambda m: m | {"sources": [0, 1]}, "contradict one another"),
        (lambda m: {k: v for k, v in m.items() if k != "kept"}, "damaged"),
        (lambda m: m | {"layer_hashes": m["layer_hashes"][1:]}, "contradict one another"),
        (lambda m: [m], "no manifest"),
    ],
)
def test_a_damaged_manifest_is_refused(folder: Path, change, words: str) -> None:
    file = folder / "emulator.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=words):
        load_emulator(folder)


def test_a_manifest_that_is_no_json_is_refused(folder: Path) -> None:
    (folder / "emulator.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        load_emulator(folder)


def test_another_dtype_is_taken_after_the_check(folder: Path) -> None:
    found: Any = load_emulator(folder, "bfloat16").model
    assert {p.dtype for p in found.parameters()} == {torch.bfloat16}
    assert found.model.rotary_emb.inv_freq.dtype == torch.float32


@pytest.mark.parametrize("sharing", ["choose", "repeat-all"])
@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_an_emulator_in_half_precision_computes_what_its_layers_do(name: str, sharing: str, tmp_path: Path) -> None:
    family(name).to(torch.bfloat16).save_pretrained(tmp_path / "full")
    full = load_backbone(str(tmp_path / "full"), "causal_lm", dtype="bfloat16").model.eval()
    made = emulator_of(full, "full", KEPT, TRAINED, sharing, "crash")
    (tmp_path / "emulator").mkdir()
    write_emulator(full, made.manifest, tmp_path / "emulator")
    assert torch.equal(logits(load_emulator(tmp_path / "emulator").model), logits(made.model))


def test_a_shared_emulator_is_no_plain_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    full = family("llama")
    write_emulator(full, emulator_of(full, "full", KEPT, TRAINED, "repeat-all", "crash").manifest, tmp_path)
    with pytest.raises((OSError, ValueError)):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds an emulator with shared layers, which plain transformers cannot load"):
        load_backbone(str(tmp_path), "causal_lm")
