"""Save, load and PEFT export; DeBERTa's shape at full size; stock PEFT as the judge."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from fulgurite.adapters import LoRA, SoRA, attach, load_adapter
from tests.adapters.toys import Toy, difference, wake


@pytest.fixture(scope="module")
def deberta():
    """A randomly initialised DeBERTa-v3-base shape (a small vocabulary; embeddings play no part here)."""
    from transformers import DebertaV2Config, DebertaV2Model

    torch.manual_seed(0)
    config = DebertaV2Config(
        vocab_size=500,
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3072,
        relative_attention=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        max_relative_positions=-1,
        position_biased_input=False,
        type_vocab_size=0,
    )
    return DebertaV2Model(config).eval()


@pytest.mark.slow
def test_deberta_counts_prunes_merges_and_exports(deberta, tmp_path):
    peft = pytest.importorskip("peft")
    model = copy.deepcopy(deberta)
    base = copy.deepcopy(model.state_dict())
    ids = torch.randint(5, 500, (2, 17), generator=torch.Generator().manual_seed(0))
    adapter = attach(model, SoRA(rank=8))
    table = adapter.rank_table()
    gates = sum(row.rank for row in table)
    assert len(table) == 72 and gates == 576
    assert sum(row.parameters for row in table) - gates == 1_327_104
    wake(adapter)
    with torch.no_grad():
        adapter.branches["encoder.layer.3.output.dense"].gate.zero_()
        gated = model(ids).last_hidden_state
        adapter.merge(reversible=True)
        assert difference(model(ids).last_hidden_state, gated) <= 1e-6
        adapter.unmerge()
        assert all(torch.equal(base[k], v) for k, v in model.state_dict().items() if k in base)
        for pattern in (False, True):
            folder = tmp_path / f"peft{pattern}"
            adapter.export_peft(folder, rank_pattern=pattern)
            loaded = peft.PeftModel.from_pretrained(copy.deepcopy(deberta), folder).eval()
            assert difference(loaded(ids).last_hidden_state, gated) <= 1e-6
        adapter.prune()
        assert difference(model(ids).last_hidden_state, gated) <= 1e-6
    adapter.detach()
    assert (
        all(torch.equal(base[k], v) for k, v in model.state_dict().items()) and base.keys() == model.state_dict().keys()
    )


def test_deberta_shared_key_projection_sees_the_adapter_twice(deberta):
    """share_att_key: the key projection also projects relative positions; both uses must carry the adapter."""
    model = copy.deepcopy(deberta)
    adapter = attach(model, LoRA(rank=4, targets=r".*\.0\..*key_proj"))
    shapes = []
    layer = next(iter(adapter.layers.values()))
    layer.register_forward_hook(lambda module, args, out: shapes.append(tuple(args[0].shape)))
    model(torch.randint(5, 500, (1, 9)))
    assert shapes == [(1, 9, 768), (1, 512, 768)]


@pytest.mark.parametrize("config", [SoRA(rank=4), LoRA(rank=4, alpha=5.0)], ids=["SoRA", "LoRA"])
def test_save_and_load(config, tmp_path):
    model, x = Toy(), torch.randn(5, 12)
    base = copy.deepcopy(model)
    adapter = attach(model, config, train=("head",))
    wake(adapter)
    with torch.no_grad():
        model.head.weight.add_(0.5)
    adapter.prune()
    adapter.save(tmp_path / "out")
    loaded = load_adapter(base, tmp_path / "out", name="again")
    assert loaded.config == config
    assert torch.equal(base(x), model(x))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["adapter.json", "adapter.safetensors"]


def test_export_keeps_the_scale_whole_and_the_head_in_modules_to_save(tmp_path):
    peft = pytest.importorskip("peft")
    model, x = Toy(), torch.randn(5, 12)
    base = copy.deepcopy(model)
    adapter = attach(model, SoRA(rank=8, alpha=16), train=("head",))
    wake(adapter, dead=0.6)
    with torch.no_grad():
        model.head.bias.add_(1.0)
    adapter.export_peft(tmp_path, base_model="somewhere/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    most = max(row.nonzero for row in adapter.rank_table())
    assert (config["r"], config["lora_alpha"]) == (most, 2 * most)
    assert config["modules_to_save"] == ["head"] and config["base_model_name_or_path"] == "somewhere/base"
    assert config["target_modules"] == ["down", "up"] and config["rank_pattern"] == {}
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert difference(loaded(x), model(x)) < 1e-6


def test_export_of_a_conv1d_model(tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=50, n_positions=32)).eval()
    base = copy.deepcopy(model)
    adapter = attach(model, SoRA(rank=4))
    wake(adapter)
    adapter.export_peft(tmp_path)
    ids = torch.randint(0, 50, (2, 9))
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert difference(loaded(ids).logits, model(ids).logits) < 1e-6


def test_rank_pattern_leaves_dead_modules_out_and_refuses_an_empty_adapter(tmp_path):
    adapter = attach(Toy(), SoRA(rank=4))
    with torch.no_grad():
        adapter.branches["blocks.0.up"].gate.zero_()
    adapter.export_peft(tmp_path / "a", rank_pattern=True)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert "blocks.0.up" not in config["target_modules"] and len(config["target_modules"]) == 3
    for gate in adapter.gates:
        gate.data.zero_()
    with pytest.raises(ValueError, match="no rank is left"):
        adapter.export_peft(tmp_path / "b", rank_pattern=True)
    assert not (tmp_path / "b").exists()
    adapter.export_peft(tmp_path / "c")


def saved(tmp_path):
    model = Toy()
    adapter = attach(model, SoRA(rank=4))
    wake(adapter)
    adapter.save(tmp_path)
    return model


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (
            lambda d: (d / "adapter.safetensors").write_bytes((d / "adapter.safetensors").read_bytes()[:200]),
            ValueError,
            "truncated",
        ),
        (lambda d: (d / "adapter.safetensors").unlink(), FileNotFoundError, "incomplete"),
        (lambda d: (d / "adapter.json").unlink(), FileNotFoundError, "does not exist"),
        (lambda d: (d / "adapter.json").write_text("{}"), ValueError, "not a Fulgurite adapter"),
    ],
)
def test_damaged_folders(tmp_path, damage, error, words):
    saved(tmp_path)
    damage(tmp_path)
    model = Toy()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(error, match=words):
        load_adapter(model, tmp_path)
    assert list(model.state_dict()) == list(before), "a failed load leaves nothing attached"


def test_another_models_adapter_is_named(tmp_path):
    saved(tmp_path)
    with pytest.raises(
        ValueError, match=r"4 differ, the first is 'blocks\.0\.up': saved \[12, 24, 4\], here \[16, 32, 4\]"
    ):
        load_adapter(Toy(width=16), tmp_path)


def test_a_crash_while_writing_leaves_the_old_files(tmp_path, monkeypatch):
    model = saved(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    from fulgurite.adapters import find_adapters, storage

    monkeypatch.setattr(storage.json, "dumps", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        find_adapters(model)[0].save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_trained_head_that_is_tied_is_not_exported_alone(tmp_path):
    transformers = pytest.importorskip("transformers")
    options = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 40,
    }
    for tied in (True, False):
        config = transformers.LlamaConfig(**options, num_key_value_heads=2, tie_word_embeddings=tied)
        adapter = attach(transformers.LlamaForCausalLM(config), LoRA(rank=2), train=("lm_head",))
        if not tied:
            adapter.export_peft(tmp_path / "peft")
            continue
        with pytest.raises(ValueError, match=r"lm_head was trained whole and is tied to model\.embed_tokens"):
            adapter.export_peft(tmp_path / "peft")
        assert not (tmp_path / "peft").exists()


def test_an_adapter_on_a_tied_head_is_exported_without_a_merge(tmp_path):
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=40,
        tie_word_embeddings=True,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    base = copy.deepcopy(model)
    adapter = attach(model, SoRA(rank=3, targets=r"lm_head|.*q_proj"))
    wake(adapter)
    ids = torch.randint(0, 40, (2, 7))
    expected = model(ids).logits
    assert not adapter.can_merge and adapter.formats == ("adapter", "peft")
    with pytest.raises(RuntimeError, match="the weight of lm_head is tied to another module"):
        adapter.merge(reversible=True)
    adapter.export_peft(tmp_path / "peft")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "peft").eval()
    assert difference(loaded(ids).logits, expected) < 1e-6 < difference(base(ids).logits, expected)
    adapter.save(tmp_path / "own")
    load_adapter(base, tmp_path / "own")
    assert torch.equal(base(ids).logits, expected)
