"""Branches of experts as PEFT's target_parameters: written for stock PEFT, and read from it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from safetensors.torch import load_file

from fulgurite.adapters import LoRA, SoRA, attach
from fulgurite.adapters.low_rank.stacking import attach_sum
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter
from fulgurite.lightning_modules.checks.peft_stage import peft_factors
from tests.adapters.low_rank.test_experts import KINDS, TARGETS, logits, mixture
from tests.adapters.toys import difference, wake

peft = pytest.importorskip("peft")
NAMES = {"target_modules": ["q_proj", "v_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}


def stirred(kind):
    """Stock PEFT on a random mixture, all its factors away from zero."""
    model = peft.get_peft_model(mixture(kind), peft.LoraConfig(r=3, lora_alpha=5, **NAMES)).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.normal_(std=0.1)
    return model


@pytest.mark.parametrize("method", [LoRA, SoRA])
@pytest.mark.parametrize("kind", list(KINDS))
def test_stock_peft_loads_the_folder(kind, method, tmp_path):
    model = mixture(kind)
    adapter = attach(model, method(rank=3, alpha=6, targets=TARGETS))
    wake(adapter)
    for branch in adapter.branches.values():
        branch.lora_b.data.mul_(10)
    adapter.export_peft(tmp_path)
    described = json.loads((tmp_path / "adapter_config.json").read_text())
    assert {name: described[name] for name in NAMES} == {name: sorted(value) for name, value in NAMES.items()}
    loaded = peft.PeftModel.from_pretrained(mixture(kind), str(tmp_path)).eval()
    assert difference(logits(loaded), logits(model)) < 1e-5
    with adapter.disabled():
        assert difference(logits(loaded), logits(model)) > 1e-3
    stirred(kind).save_pretrained(tmp_path / "stock")
    own, stock = (
        load_file(tmp_path / "adapter_model.safetensors"),
        load_file(tmp_path / "stock/adapter_model.safetensors"),
    )
    assert set(own) == set(stock)
    if method is LoRA:
        assert {key: value.shape for key, value in own.items()} == {key: value.shape for key, value in stock.items()}


@pytest.mark.parametrize("pattern", [False, True])
@pytest.mark.parametrize("kind", ["Mixtral", "GptOss"])
def test_ranks_that_differ_and_a_stack_without_any(kind, pattern, tmp_path):
    model = mixture(kind)
    adapter = attach(model, SoRA(rank=4, alpha=8, targets=TARGETS))
    wake(adapter)
    with torch.no_grad():
        branches = adapter.branches
        branches["model.layers.0.mlp.experts.gate_up_proj"].gate.zero_()
        branches["model.layers.1.mlp.experts.down_proj"].gate[:, 1:] = 0
    adapter.prune()
    adapter.export_peft(tmp_path, rank_pattern=pattern)
    loaded = peft.PeftModel.from_pretrained(mixture(kind), str(tmp_path)).eval()
    assert difference(logits(loaded), logits(model)) < 1e-5


@pytest.mark.parametrize(
    "targets", [r".*experts\.down_proj", r".*\.1\..*experts\.gate_up_proj", r".*o_proj|.*1.*down_proj"]
)
def test_some_parameters_only(targets, tmp_path):
    model = mixture("Qwen3Moe")
    adapter = attach(model, LoRA(rank=2, dropout=0.1, targets=targets))
    wake(adapter)
    adapter.export_peft(tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_dropout"] == 0
    loaded = peft.PeftModel.from_pretrained(mixture("Qwen3Moe"), str(tmp_path)).eval()
    assert difference(logits(loaded), logits(model)) < 1e-5


@pytest.mark.parametrize("pattern", [False, True])
@pytest.mark.parametrize("targets", ["all-linear", r".*(q_proj|gate_proj|up_proj|down_proj)"])
def test_dense_layers_that_peft_would_take_for_experts(targets, pattern, tmp_path):
    """PEFT renames gate_proj, up_proj and down_proj of a mixture; the layers that still have these names would be left out."""
    model = mixture("Qwen3Moe", mlp_only_layers=[0])
    adapter = attach(model, SoRA(rank=3, alpha=6, targets=targets))
    wake(adapter)
    adapter.branches["model.layers.0.mlp.gate_proj"].lora_b.data.mul_(30)
    adapter.export_peft(tmp_path, rank_pattern=pattern)
    loaded = peft.PeftModel.from_pretrained(mixture("Qwen3Moe", mlp_only_layers=[0]), str(tmp_path)).eval()
    assert difference(logits(loaded), logits(model)) < 1e-5
    factors = peft_factors(mixture("Qwen3Moe", mlp_only_layers=[0]), str(tmp_path))
    again = mixture("Qwen3Moe", mlp_only_layers=[0])
    attach_sum(again, [factors])
    assert difference(logits(again), logits(model)) < 1e-5


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_folder_of_peft_is_the_stage_before(kind, tmp_path):
    stock = stirred(kind)
    stock.save_pretrained(tmp_path)
    expected = logits(stock)
    merged = mixture(kind)
    merge_adapter(merged, str(tmp_path))
    assert difference(logits(merged), expected) < 1e-5
    factors = peft_factors(mixture(kind), str(tmp_path))
    assert sum("experts." in name for name in factors) == 4
    model = mixture(kind)
    twin = copy.deepcopy(model)
    own = attach(twin, LoRA(rank=2, targets=TARGETS))
    wake(own)
    adapter = attach_sum(model, [factors, own.low_rank_factors()])
    own.merge(), own.detach()
    merge_adapter(twin, str(tmp_path))
    assert difference(logits(model), logits(twin)) < 1e-5
    assert {branch.max_rank for branch in adapter.branches.values()} == {5}
