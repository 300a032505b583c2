"""Attempts with adapters: options that decide nothing, folders and checkpoints of something else, several adapters at once.

What is shown is what must be said: a refusal that names what was given, one warning, or the right result.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fulgurite.adapters import APET, BitFit, Bottleneck, LoRA, SoftPrompt, SoRA, attach, load_adapter
from fulgurite.lightning_modules import SFTModule
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter
from fulgurite.models import load_backbone
from tests.acceptances.said import refusal
from tests.adapters.toys import Toy, difference, wake

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(3))
REFUSALS = (ValueError, RuntimeError, FileNotFoundError, TypeError)


def toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def saved(folder: Path, config: Any, **options: Any) -> str:
    adapter = attach(toy(), config, **options)
    if isinstance(config, LoRA | SoRA):
        wake(adapter, dead=0.0)
    adapter.save(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("targets", "idle"),
    [
        pytest.param(r".*\.(up|dwon)", "dwon", id="a misspelt layer in a group"),
        pytest.param(r"blocks\.0\.up|blocks\.7\.up", r"blocks\.7\.up", id="a layer that the model does not have"),
        pytest.param(r"blocks\.(0|2)\.(?:up|down)", "2", id="a block that the model does not have"),
    ],
)
def test_an_alternative_of_targets_that_matches_nothing(
    targets: str, idle: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        attach(toy(), LoRA(rank=2, targets=targets))
    assert f"the alternative {idle!r} matches no linear layer" in caplog.text
    caplog.clear()
    attach(toy(), LoRA(rank=2, targets=r"blocks\.(0|1)\.(?:up|down)"))
    assert not caplog.records


SCORES = {name: torch.ones_like(p) for name, p in Toy().named_parameters()}
MASK = {"blocks.0.up.weight": torch.arange(5)}


def other_kind(first: Any, second: Any) -> Callable[[Path], object]:
    return lambda folder: attach(toy(), second).load(saved(folder, first))


ATTEMPTS = [
    pytest.param(lambda _: attach(toy(), APET(budget=9), scores=SCORES), "beside selection='uniform_scalar'",
                 id="scores for positions that are drawn at random"),
    pytest.param(lambda _: attach(toy(), APET(budget=5, selection="gradient"), scores=SCORES, positions=MASK), "beside positions=",
                 id="scores and positions at once"),
    pytest.param(lambda _: attach(toy(), APET(budget=9), positions=MASK), "selects 5 scalars, but budget=9",
                 id="positions by hand and another budget"),
    pytest.param(lambda _: attach(toy(), LoRA(rank=2), positions=MASK), "chooses no scalars", id="positions for LoRA"),
    pytest.param(lambda _: attach(toy(), LoRA(rank=2), train="head"), "train='head' is one text", id="a pattern without its tuple"),
    pytest.param(lambda _: attach(toy(), LoRA), "config is type; allowed are LoRA", id="the class in place of a configuration"),
    pytest.param(lambda _: attach(toy(), LoRA(rank=2), train=("blocks",)), "trains all of them whole",
                 id="all layers trained whole, and none left to adapt"),
    pytest.param(lambda _: attach(toy(), SoftPrompt(length=3)), "Toy", id="a soft prompt for a model without token embeddings"),
    pytest.param(lambda _: attach(toy(), Bottleneck(targets=r".*\.conv")), "conv", id="bottlenecks behind layers that are absent"),
    pytest.param(lambda _: attach(toy(), BitFit(targets=r".*weight")), "weight", id="BitFit on weights"),
    pytest.param(lambda _: attach(toy(), LoRA(rank=True)), "rank=True", id="a rank that is true"),
    pytest.param(lambda _: attach(toy(), SoRA(rank=2, look_every=0)), "look_every=0", id="gates that are looked at every 0 steps"),
    pytest.param(other_kind(LoRA(rank=2, alpha=2), LoRA(rank=2, alpha=64)), "alpha=2 at rank=2, and this adapter has alpha=64",
                 id="a folder of another alpha, whose product was multiplied by another number"),
    pytest.param(other_kind(LoRA(rank=2), LoRA(rank=4)), "made for other layers", id="a folder of another rank"),
    pytest.param(other_kind(SoRA(rank=2), LoRA(rank=2)), "no place for", id="a folder of SoRA for LoRA"),
    pytest.param(other_kind(BitFit(), APET(budget=9)), "", id="a folder of BitFit for APET"),
    pytest.param(lambda folder: load_adapter(Toy(width=10), saved(folder, LoRA(rank=2))), "made for other layers",
                 id="a folder for a model of another width"),
    pytest.param(lambda folder: load_adapter(nn.Sequential(nn.Linear(4, 4)), saved(folder, LoRA(rank=2))), "",
                 id="a folder for another architecture"),
    pytest.param(lambda folder: load_adapter(toy(), saved(folder, LoRA(rank=2), train=("head",)), name="a.b"), "a.b",
                 id="a name that no key of a state dict can hold"),
]  # fmt: skip


@pytest.mark.parametrize(("act", "said"), ATTEMPTS)
def test_refusals(act: Callable[[Path], object], said: str, tmp_path: Path) -> None:
    with pytest.raises(REFUSALS) as caught:
        act(tmp_path / "adapter")
    text = str(caught.value)
    assert any(words in text for words in said.split("|")), text


def test_a_folder_of_peft_for_load_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    assert "give the folder that adapter.save() wrote" in refusal(lambda: load_adapter(toy(), tmp_path))


def test_merging_while_switched_off() -> None:
    """Inside of disabled() the base is promised, which a merge would change."""
    model = toy()
    adapter = attach(model, LoRA(rank=2))
    wake(adapter)
    base, whole = toy()(X), model(X)
    with adapter.disabled():
        adapter.merge(reversible=True)
        inside = model(X)
        adapter.unmerge()
        assert difference(model(X), base) < 1e-6
    assert difference(model(X), whole) < 1e-6
    assert difference(inside, whole) < 1e-5, "merged weights compute with the adapter, whatever is switched off"


def test_one_of_two_adapters_leaves(tmp_path: Path) -> None:
    """What is saved is this adapter alone, although both are active."""
    model = toy()
    first, second = attach(model, LoRA(rank=2), name="first"), attach(model, LoRA(rank=3), name="second")
    wake(first, 1)
    wake(second, 2)
    with second.only():
        expected = model(X)
    second.save(tmp_path)
    fresh = toy()
    load_adapter(fresh, tmp_path)
    assert difference(fresh(X), expected) < 1e-6


def test_a_handle_whose_adapter_has_left() -> None:
    adapter = attach(toy(), LoRA(rank=2))
    adapter.detach()
    for act in (lambda: adapter.only().__enter__(), lambda: adapter.disabled().__enter__(), adapter.detach):
        with pytest.raises(RuntimeError, match="not attached any more"):
            act()


def test_a_checkpoint_trained_with_another_alpha() -> None:
    """Lightning loads the tensors, whose product was then multiplied by another number."""
    made, other = (SFTModule("playground", adapter=LoRA(rank=2, alpha=alpha)) for alpha in (2, 64))
    checkpoint: dict[str, Any] = {}
    for module in (made, other):
        module.configure_model()
    made.on_save_checkpoint(checkpoint)
    checkpoint["state_dict"] = made.state_dict()
    assert "alpha=2 at rank=2, and this adapter has alpha=64" in refusal(lambda: other.on_load_checkpoint(checkpoint))


def stage(file: Path, backbone: str) -> str:
    """A checkpoint of a low-rank adapter on the playground that names this base."""
    module = SFTModule("playground", adapter=LoRA(rank=2))
    module.configure_model()
    checkpoint: dict[str, Any] = {"state_dict": module.state_dict(), "hyper_parameters": {"backbone": backbone}}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, file)
    return str(file)


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        pytest.param("some/other-model", True, id="of another base of the same shape"),
        pytest.param("playground-base", False, id="of the same base by another name"),
    ],
)
def test_a_stage_that_was_trained_on_another_base(backbone: str, told: bool, tmp_path: Path) -> None:
    import warnings

    model = load_backbone(SFTModule("playground").backbone_folder, "causal_lm").model
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        merge_adapter(model, stage(tmp_path / "first.ckpt", backbone))
    words = "was trained on some/other-model, and is put into"
    assert any(words in str(one.message) for one in caught) is told


def peft_of_the_playground(folder: Path, named: str, **options: Any) -> str:
    peft = pytest.importorskip("peft")
    model: Any = load_backbone(SFTModule("playground").backbone_folder, "causal_lm").model
    given = {"r": 2, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False, **options}
    peft.get_peft_model(model, peft.LoraConfig(**given)).save_pretrained(folder)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": named}))
    return str(folder)


@pytest.mark.parametrize(
    ("named", "told"),
    [
        pytest.param("some/other-model", True, id="of another base of the same shape, such as a merged one"),
        pytest.param("playground", False, id="of the same base"),
    ],
)
def test_a_folder_of_peft_on_another_base(
    named: str, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from fulgurite.generation import load_for_generation

    folder = peft_of_the_playground(tmp_path / "peft", named)
    with caplog.at_level(logging.WARNING, "fulgurite"):
        load_for_generation("playground", folder)
    assert ("names the base some/other-model, and is put onto playground" in caplog.text) is told


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"use_rslora": True, "lora_alpha": 4}, id="scaled by the root of its rank"),
        pytest.param({"rank_pattern": {"q_proj": 4}, "alpha_pattern": {"v_proj": 16}}, id="with ranks and alphas of their own"),
    ],
)  # fmt: skip
def test_a_stage_of_peft_computes_what_peft_computes(options: dict[str, Any], tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    folder = peft_of_the_playground(tmp_path / "peft", "playground", **options)
    base, ids = SFTModule("playground").backbone_folder, torch.arange(5, 21)[None]
    ours: Any = load_backbone(base, "causal_lm").model.eval()
    theirs = peft.PeftModel.from_pretrained(load_backbone(base, "causal_lm").model, folder).eval()
    merge_adapter(ours, folder)
    with torch.no_grad():
        assert difference(ours(input_ids=ids).logits, theirs(input_ids=ids).logits) < 1e-5


def test_a_classifier_of_peft_writes_no_text(tmp_path: Path) -> None:
    """Its branches fit a language model of the same shape, and its head was left out without a word."""
    peft = pytest.importorskip("peft")
    from fulgurite.generation import load_for_generation

    model: Any = load_backbone(SFTModule("playground").backbone_folder, "classification", num_labels=2).model
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS", init_lora_weights=False)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "peft")
    said = refusal(lambda: load_for_generation("playground", str(tmp_path / "peft")))
    assert "SEQ_CLS" in said and "writes no text" in said
