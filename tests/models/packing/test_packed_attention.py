"""Packed rows: the same log-probabilities and gradients as each row alone, for every architecture of the table."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F

from fulgurite.adapters import LoRA, SoRA, attach
from fulgurite.data.rows.packed import PackedCollator
from fulgurite.models import enable_activation_checkpointing, load_backbone
from fulgurite.models.heads import find_decoder
from fulgurite.models.packing.attention_functions import Rule, _by_chain, _flex, attend
from fulgurite.models.packing.packed_attention import (
    PACKABLE,
    disable_packing,
    enable_packing,
    packed_inputs,
    prove_packing,
)
from fulgurite.models.packing.segments import Segments, packed_structure
from tests.models.tiny import DECODERS, VOCABULARY, WINDOW, build

LENGTHS = (3, WINDOW + 9, 1, WINDOW, 2 * WINDOW + 7, 5)  # shorter than the sliding window, as long as it, and longer


def rows_of(lengths=LENGTHS, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]


def packed_batch(rows, pad_multiple=1):
    items = [
        {
            "input_ids": row,
            "labels": torch.cat([torch.tensor([-100]), row[1:]]),
            "position_ids": torch.arange(len(row)),
            "segment_lengths": torch.tensor([len(row)]),
        }
        for row in rows
    ]
    return PackedCollator(0, pad_multiple).rows(items)


def token_log_probs(logits, labels):
    """(T-1,) log-probabilities of the next tokens that have a label, 0 elsewhere."""
    return -F.cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100, reduction="none")


def packed_log_probs(model, rows, pad_multiple=1):
    batch = packed_batch(rows, pad_multiple)
    found = token_log_probs(model(**packed_inputs(model, batch)).logits, batch["labels"])
    return found[batch["labels"][0, 1:] != -100]


def alone_log_probs(model, rows):
    return torch.cat([token_log_probs(model(input_ids=row[None]).logits, row[None]) for row in rows])


def errors(model, plain, rows):
    """Largest error of the log-probabilities relative to the largest, and of all gradients relative to their norm."""
    wanted, found = alone_log_probs(plain, rows), packed_log_probs(model, rows)
    assert found.shape == wanted.shape
    weights = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(5)).to(wanted.dtype)
    (wanted * weights).sum().backward()
    (found * weights).sum().backward()
    pairs = [
        (a, b) for a, b in zip(plain.named_parameters(), model.named_parameters(), strict=True) if a[1].requires_grad
    ]
    assert pairs and all(a[0] == b[0] and b[1].grad is not None for a, b in pairs)
    norm = sum(a[1].grad.double().square().sum() for a, _ in pairs).sqrt()
    distance = sum((a[1].grad - b[1].grad).double().square().sum() for a, b in pairs).sqrt()
    return float(((found - wanted).abs().max() / wanted.abs().max()).detach()), float(distance / norm)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("adapter", [None, LoRA(rank=3), SoRA(rank=3)], ids=["full", "lora", "sora"])
@pytest.mark.parametrize("name", DECODERS)
def test_packed_equals_unpacked(name, adapter, checkpointing):
    model = build(name)
    handle = None
    if adapter is not None:
        handle = attach(model, adapter)
        with torch.no_grad():
            for branch in handle.branches.values():
                branch.lora_b.normal_(std=0.1)
    plain = copy.deepcopy(model)
    if checkpointing:
        enable_activation_checkpointing(model, handle)
    enable_packing(model)
    value, gradient = errors(model, plain, rows_of())
    assert value < 1e-5 and gradient < 1e-5


@pytest.mark.parametrize("name", DECODERS)
def test_packed_equals_unpacked_in_float64(name):
    """Where rounding hides nothing: a mask that is wrong by little would show here."""
    model = build(name).double()
    plain = copy.deepcopy(model)
    enable_packing(model)
    value, gradient = errors(model, plain, rows_of())
    # Gemma 2 and BLOOM take softmax in float32 when they go eagerly; so do rotary tables and some norms of others.
    assert value < 2e-7 and gradient < 1e-6


@pytest.mark.real_data
def test_packed_equals_unpacked_on_a_trained_llama(real_data):
    model = load_backbone(str(real_data / "models" / "aidreams260K" / "hf_converted"), "causal_lm").model
    plain = copy.deepcopy(model)
    enable_packing(model)
    value, gradient = errors(model, plain, rows_of((40, 3, 71)))
    assert value < 1e-5 and gradient < 1e-5


def test_table_is_what_was_tested():
    assert set(PACKABLE) == {build(name).config.model_type for name in DECODERS}


class LargestSquare(torch.overrides.TorchFunctionMode):
    """Notes the side of the largest square matrix that anybody makes."""

    side = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.dim() >= 2 and out.shape[-1] == out.shape[-2]:
            self.side = max(self.side, out.shape[-1])
        return out


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom"])
def test_attention_costs_no_square_of_the_pack(name):
    model = build(name)
    batch = packed_batch(rows_of((40,) * 6))
    with LargestSquare() as before:
        model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False)
    enable_packing(model)
    with LargestSquare() as packed:
        model(**packed_inputs(model, batch))
    assert before.side == 240 and packed.side <= 40


@pytest.mark.slow
def test_bloom_is_precise_far_into_a_pack():
    model = build("bloom")
    plain = copy.deepcopy(model).double()
    enable_packing(model)
    rows = rows_of((9,))
    filler = [torch.full((4096,), 5)] * 4
    with torch.no_grad():
        wanted = alone_log_probs(plain, rows)
        found = packed_log_probs(model, [*filler, *rows])[-8:]
        early = packed_log_probs(model, rows)
    assert float((found - wanted).abs().max()) < 2e-6
    torch.testing.assert_close(found, early, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_other_batches_go_on_as_before(name):
    model = build(name).eval()
    plain = copy.deepcopy(model)
    enable_packing(model)
    ids = torch.stack(rows_of((9, 9)))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        assert torch.equal(model(ids, attention_mask=mask).logits, plain(ids, attention_mask=mask).logits)
        assert torch.equal(model(ids).logits, plain(ids).logits)
        options = dict(max_new_tokens=2 * WINDOW, do_sample=False, pad_token_id=0, eos_token_id=VOCABULARY - 1)
        left = mask.flip(1)
        assert torch.equal(
            model.generate(ids, attention_mask=left, **options), plain.generate(ids, attention_mask=left, **options)
        )


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_decoder_takes_the_same_inputs(name):
    model = build(name)
    enable_packing(model)
    inputs = packed_inputs(model, packed_batch(rows_of()))
    hidden = find_decoder(model)(**inputs).last_hidden_state
    torch.testing.assert_close(model.get_output_embeddings()(hidden), model(**inputs).logits)


def test_padding_changes_nothing():
    model = build("llama")
    enable_packing(model)
    found = packed_log_probs(model, rows_of(), pad_multiple=64)
    torch.testing.assert_close(found, packed_log_probs(model, rows_of()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["llama", "gemma2", "bloom", "gpt2"])
def test_attention_dropout_is_on_in_training_only(name):
    field = {"gpt2": "attn_pdrop"}.get(name, "attention_dropout")
    model = build(name, **{field: 0.5})
    enable_packing(model)
    rows = rows_of()
    with torch.no_grad():
        assert not torch.allclose(packed_log_probs(model, rows), packed_log_probs(model, rows))
        model.eval()
        assert torch.equal(packed_log_probs(model, rows), packed_log_probs(model, rows))


@pytest.mark.parametrize("name", ["llama", "bloom"])
def test_enabling_is_idempotent_reversible_and_leaves_no_trace(name, tmp_path):
    model = build(name)
    keys, classes = list(model.state_dict()), [type(module) for module in model.modules()]
    before = model.config._attn_implementation
    enable_packing(model)
    enable_packing(model)
    prove_packing(model)
    assert list(model.state_dict()) == keys
    model.save_pretrained(tmp_path)
    assert "fulgurite" not in (tmp_path / "config.json").read_text().lower()
    again = pickle.loads(pickle.dumps(model))
    torch.testing.assert_close(packed_log_probs(again, rows_of()), packed_log_probs(model, rows_of()))
    handle = attach(model, LoRA(rank=2))  # adapters also come afterwards
    packed_log_probs(model, rows_of())
    handle.detach()
    disable_packing(model)
    assert model.config._attn_implementation == before and [type(module) for module in model.modules()] == classes
    with pytest.raises(ValueError, match="call enable_packing first"):
        packed_inputs(model, packed_batch(rows_of()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", DECODERS)
def test_proof_in_half_precision(name, dtype):
    model = build(name).to(dtype)
    enable_packing(model)
    prove_packing(model)


def test_autocast():
    model = build("gemma2")
    enable_packing(model)
    with torch.autocast("cpu", torch.bfloat16):
        found = packed_log_probs(model, rows_of())
    torch.testing.assert_close(found.float(), packed_log_probs(model, rows_of()), rtol=0.05, atol=0.05)


def test_an_architecture_outside_of_the_table_is_proved():
    import transformers

    settings = dict(vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2)
    settings |= dict(num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, sliding_window=WINDOW)
    model = transformers.Starcoder2ForCausalLM(transformers.Starcoder2Config(**settings))
    state = torch.random.get_rng_state()
    enable_packing(model)
    assert torch.equal(state, torch.random.get_rng_state())
    plain = copy.deepcopy(model)
    disable_packing(plain)
    assert max(errors(model, plain, rows_of())) < 1e-5


def test_proof_sees_attention_that_leaks(monkeypatch):
    model = build("llama")

    def leaky(query, key, value, segments, rule):
        return _by_chain(query, key, value, Segments(torch.tensor([0, query.shape[2]])), rule)

    monkeypatch.setattr("fulgurite.models.packing.attention_functions.attend", leaky)
    with pytest.raises(ValueError, match=r"LlamaForCausalLM lets packed rows see one another.*packing to false"):
        enable_packing(model)
    assert model.config._attn_implementation == "sdpa"


def test_proof_sees_positions_that_run_on(monkeypatch):
    model = build("gpt2")
    forward = type(model.transformer).forward

    def ignoring(self, *args, position_ids=None, **kwargs):
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model.transformer), "forward", ignoring)
    with pytest.raises(ValueError, match="see one another"):
        enable_packing(model)


def test_proof_sees_windows_that_do_not_arrive(monkeypatch):
    """Two segments shorter than the window could not show it."""
    model = build("mistral", sliding_window=4096)
    enable_packing(model)
    disable_packing(model)
    deaf = copy.copy(model.config)
    deaf.sliding_window, deaf._attn_implementation = None, "fulgurite_sdpa"
    for layer in model.model.layers:
        layer.self_attn.config = deaf
    with pytest.raises(ValueError, match=r"with windows \[0\] instead of \[4096\]"):
        enable_packing(model)


def test_layers_of_other_kinds_are_refused():
    model = build("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ValueError, match="linear_attention, for which packed rows are not built"):
        enable_packing(model)


def test_models_that_do_not_run_where_they_are(monkeypatch):
    """On the meta device the table is trusted; so is it where the model fails without packing, too."""
    model = build("llama").to("meta")
    enable_packing(model)
    assert model.config._attn_implementation == "fulgurite_sdpa"

    def broken(self, *args, **kwargs):
        raise RuntimeError("needs a GPU")

    model = build("llama")
    monkeypatch.setattr(type(model), "forward", broken)
    enable_packing(model)
    monkeypatch.setattr("fulgurite.models.packing.packed_attention.PACKABLE", ())
    with pytest.raises(ValueError, match="does not run here, so packing was not proved"):
        enable_packing(build("llama"))


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_encoder_decoders_are_refused(name):
    with pytest.raises(ValueError, match=r"is an encoder-decoder.*packing to false"):
        enable_packing(build(name))


def test_encoders_and_headless_models_are_refused():
    import transformers

    settings = dict(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    config = transformers.BertConfig(**settings, intermediate_size=48)
    for model in (transformers.BertForMaskedLM(config), transformers.BertModel(config), torch.nn.Linear(2, 2)):
        with pytest.raises(ValueError, match=f"{type(model).__name__} .*packing to false"):
            enable_packing(model)
    bidirectional = build("gemma2")
    bidirectional.config.use_bidirectional_attention = True
    with pytest.raises(ValueError, match="both directions"):
        enable_packing(bidirectional)


def test_a_state_space_model_is_refused():
    import transformers

    config = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    with pytest.raises(ValueError, match=r"MambaForCausalLM.*packing to false"):
        enable_packing(transformers.MambaForCausalLM(config))


def test_batches_that_do_not_fit_are_refused():
    model = build("llama")
    enable_packing(model)
    batch = packed_batch(rows_of())
    with pytest.raises(ValueError, match="no position_ids, cu_seq_lens"):
        packed_inputs(model, {"input_ids": batch["input_ids"]})
    batch["cu_seq_lens"] = batch["cu_seq_lens"][:-1]
    with pytest.raises(ValueError, match="boundaries end where it ends"):
        model(**packed_inputs(model, batch))


def test_structure_is_read_back_from_the_mask_alone():
    segments = Segments(torch.tensor([0, 3, 3, 7], dtype=torch.int32))
    assert segments.lengths == [3, 4]
    assert packed_structure(segments.carrier()) is segments
    assert packed_structure(segments.carrier().clone()).lengths == [3, 4]
    for mask in (None, torch.ones(1, 1, 4, 4), torch.ones(2, 4, dtype=torch.int64), torch.ones(1, 1, 1, 4).bool()):
        assert packed_structure(mask) is None


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 5])
def test_flex_attention_agrees_with_the_loop(window, softcap, groups):
    """The GPU's way, uncompiled: its mask and its score function are the same there."""
    generator = torch.Generator().manual_seed(0)
    segments = Segments(torch.tensor([0, 3, 20, 21, 40], dtype=torch.int32))
    query = torch.randn(1, 4, 40, 16, generator=generator)
    key, value = (torch.randn(1, 4 // groups, 40, 16, generator=generator) for _ in range(2))
    rule = Rule(0.3, window, softcap)
    wanted = attend(query, key, value, segments, rule)
    assert wanted.shape == (1, 40, 4, 16)
    torch.testing.assert_close(_flex(query, key, value, segments, rule), wanted, rtol=1e-5, atol=1e-6)


def test_proof_is_not_misled_by_autocast():
    model = build("llama")
    with torch.autocast("cpu", torch.bfloat16):
        enable_packing(model)
        assert torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    ],
    ids=lambda scaling: scaling["rope_type"],
)
def test_positions_that_depend_on_the_longest_row_are_refused(scaling: dict[str, object]) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 32,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    config = LlamaConfig(**sizes, max_position_embeddings=64, rope_scaling=scaling)
    with pytest.raises(ValueError, match=f"rotary positions of type '{scaling['rope_type']}', whose scale depends on"):
        enable_packing(LlamaForCausalLM(config))
