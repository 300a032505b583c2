"""What adapters train stays float32 when the model around it is cast, made under another default dtype, or moved."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fulgurite.adapters import APET, BitFit, Bottleneck, LoRA, SoftPrompt, SoRA, attach

CONFIGS = [LoRA(rank=2), SoRA(rank=2), APET(budget=20), BitFit(), Bottleneck(width=2), SoftPrompt(length=2)]


def model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=30)
    return LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True, pad_token_id=0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_trained_values_stay_float32_and_keep_their_digits(config, dtype):
    base = model()
    adapter = attach(base, config)
    trained = {name: p for name, p in base.named_parameters() if p.requires_grad}
    with torch.no_grad():
        for p in trained.values():
            p.add_(1e-5 * torch.randn_like(p))
    adapter.sync()
    before = {name: p.detach().clone() for name, p in trained.items()}
    base.to(dtype)
    after = dict(base.named_parameters())
    assert trained
    for name, value in before.items():
        assert after[name].dtype == torch.float32 and torch.equal(after[name], value), name
    assert base.model.embed_tokens.weight.dtype == dtype
    if dtype == torch.bfloat16:
        base(input_ids=torch.arange(1, 9)[None]).logits.float().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in base.parameters() if p.requires_grad)
    copied = copy.deepcopy(base).double()
    assert all(p.dtype == torch.float64 for p in copied.parameters())


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_adapters_made_under_another_default_dtype_are_float32(config):
    """Lightning builds models within torch.set_default_dtype(torch.bfloat16) under bf16-true."""
    base = model()
    torch.set_default_dtype(torch.bfloat16)
    try:
        attach(base, config)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(p.dtype == torch.float32 for p in base.parameters() if p.requires_grad)
