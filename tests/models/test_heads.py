"""Output heads: the tensors that come back give the model's own logits, or nothing comes back."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.adapters import LoRA, SoRA, attach
from fulgurite.models.heads import find_decoder, output_head, prove_head
from tests.models.tiny import DECODERS, ENCODER_DECODERS, VOCABULARY, build


def reference(head, hidden):
    """What linear_log_probs computes, in plain operations; log-probabilities of every token."""
    z = F.linear(hidden, head.weight, head.bias)
    if head.lora is not None:
        a, gate, b, scaling, dropout = head.lora
        assert dropout == 0.0
        low = F.linear(hidden, a) if gate is None else F.linear(hidden, a) * gate
        z = z + scaling * F.linear(low, b)
    z = z * head.logit_scale
    if head.softcap is not None:
        z = head.softcap * torch.tanh(z / head.softcap)
    return z.log_softmax(-1)


def inputs_of(model):
    generator = torch.Generator().manual_seed(3)
    inputs = {"input_ids": torch.randint(3, VOCABULARY, (2, 7), generator=generator)}
    inputs["attention_mask"] = torch.ones(2, 7, dtype=torch.int64)
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.randint(3, VOCABULARY, (2, 5), generator=generator)
        inputs["attention_mask"][1, 4:] = 0
    return inputs


def errors(model):
    """Largest error of the log-probabilities, and of the gradient relative to its norm."""
    inputs = inputs_of(model)
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected = model(**inputs).logits.log_softmax(-1)
    probe = torch.randn(expected.shape, generator=torch.Generator().manual_seed(5), dtype=expected.dtype)
    wanted = torch.autograd.grad((expected * probe).sum(), parameters)
    found = reference(output_head(model), find_decoder(model)(**inputs).last_hidden_state)
    grads = torch.autograd.grad((found * probe).sum(), parameters)
    norm = sum(g.square().sum() for g in wanted).sqrt()
    distance = sum((g - w).square().sum() for g, w in zip(grads, wanted, strict=True)).sqrt()
    return float((found - expected).abs().max().detach()), float(distance / norm)


@pytest.mark.parametrize("name", [*DECODERS, *ENCODER_DECODERS])
def test_head_gives_the_models_log_probabilities(name):
    model = build(name).double()
    if name == "bart":
        model.final_logits_bias.normal_(generator=torch.Generator().manual_seed(1))
    value, gradient = errors(model)
    # float64 against float64; T5 scales hidden states instead of logits, which rounds otherwise.
    assert value < 1e-12 and gradient < 1e-12
    assert prove_head(model)


@pytest.mark.parametrize(
    ("name", "scale", "cap"),
    [
        ("llama", 1.0, None),
        ("gemma2", 1.0, 0.5),
        ("cohere", 0.25, None),
        ("granite", 1 / 3, None),
        ("t5", 32**-0.5, None),
        ("t5 untied", 1.0, None),
    ],
)
def test_scale_and_cap_are_the_architectures(name, scale, cap):
    head = output_head(build(name))
    assert head.logit_scale == pytest.approx(scale, rel=1e-7) and head.softcap == cap


@pytest.mark.parametrize("config", [LoRA(rank=3, alpha=5, targets=".*lm_head"), SoRA(rank=3, targets=".*lm_head")])
@pytest.mark.parametrize("name", ["llama", "t5 untied"])
def test_branch_of_an_adapted_head_comes_back(name, config):
    model = build(name)
    adapter = attach(model, config)
    with torch.no_grad():
        model.lm_head.branches["default"].lora_b.normal_()
    model.double()
    assert output_head(model) is None  # attach watches the first forward
    assert prove_head(model)
    head = output_head(model)
    assert head.lora is not None and head.lora.lora_a.shape == (3, 32) and head.lora.lora_b.shape == (VOCABULARY, 3)
    assert (head.lora.gate is None) == isinstance(config, LoRA)
    value, gradient = errors(model)
    # The adapted layer itself keeps its branch in float32 where it can.
    assert value < 1e-6 and gradient < 1e-6
    with adapter.disabled():
        assert output_head(model).lora is None
        assert prove_head(model)
    if name == "llama":  # transformers ties T5's head whatever the configuration says
        adapter.merge()
        assert output_head(model).lora is None
        assert prove_head(model)


def test_dropout_of_the_branch_follows_the_mode():
    model = build("llama")
    attach(model, LoRA(rank=2, dropout=0.3, targets=".*lm_head"), check_forward=False)
    assert output_head(model).lora.dropout == 0.3
    assert output_head(model.eval()).lora.dropout == 0.0


def test_two_active_branches_are_left_to_the_model():
    model = build("llama")
    first = attach(model, LoRA(rank=2, targets=".*lm_head"))
    attach(model, LoRA(rank=2, targets=".*lm_head"), name="second")
    assert len(model.lm_head.site.active) == 2
    assert not prove_head(model)
    assert output_head(model) is None
    with first.only():
        assert output_head(model).lora is not None


def test_a_head_that_somebody_watches_or_wraps_is_left_to_the_model():
    model = build("llama")
    handle = model.lm_head.register_forward_hook(lambda *_: None)
    assert output_head(model) is None and not prove_head(model)
    handle.remove()
    handle = model.lm_head.register_full_backward_hook(lambda *_: None)
    assert output_head(model) is None
    handle.remove()
    assert output_head(model) is not None
    torch.nn.utils.parametrize.register_parametrization(model.lm_head, "weight", nn.Identity())
    assert output_head(model) is None
    model.lm_head = nn.Sequential(nn.Linear(32, VOCABULARY))
    assert output_head(model) is None


def test_models_without_a_head():
    model = build("llama")
    assert output_head(model.model) is None
    assert output_head(nn.Linear(2, 2)) is None
    assert not prove_head(model.model) and not prove_head(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="Linear has no"):
        find_decoder(nn.Linear(2, 2))


def test_proof_fails_where_the_model_does_more(monkeypatch):
    model = build("llama").eval()
    model.model.layers[0].train()
    state = torch.random.get_rng_state()
    assert prove_head(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert model.model.layers[0].training and not model.model.layers[1].training
    model.config.logits_scaling = 7.0  # Llama does not divide by it
    assert output_head(model).logit_scale == 1.0
    original = type(model).forward

    def scaled(self, *args, **kwargs):
        output = original(self, *args, **kwargs)
        output.logits = output.logits * 1.01
        return output

    monkeypatch.setattr(type(model), "forward", scaled)
    assert not prove_head(model)


@pytest.mark.parametrize("name", ["llama", "gemma2", "t5"])
def test_proof_in_bfloat16(name):
    assert prove_head(build(name).bfloat16())


def test_view_of_t5_owns_nothing():
    model = build("t5")
    view = find_decoder(model)
    assert list(view.parameters()) == [] and list(view.state_dict()) == []


def test_proof_is_not_misled_by_autocast():
    model = build("llama")
    with torch.autocast("cpu", torch.bfloat16):
        assert prove_head(model)
        assert torch.is_autocast_enabled("cpu")
