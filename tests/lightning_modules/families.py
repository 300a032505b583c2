"""Tiny random backbones of the BERT, BLOOM and T5 families over the playground's tokenizer, as folders."""

from __future__ import annotations

from pathlib import Path

import torch

__all__ = ["write_bloom", "write_t5"]


def _tokenizer(folder: Path):
    from fulgurite.data.encoding.tokenizers import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer("playground")
    tokenizer.save_pretrained(folder)
    return tokenizer


def write_bloom(folder: Path) -> str:
    """Two blocks, 32 wide."""
    from transformers import BloomConfig, BloomForCausalLM

    tokenizer = _tokenizer(folder)
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    config = BloomConfig(
        vocab_size=len(tokenizer), hidden_size=32, n_layer=2, n_head=4, pad_token_id=tokenizer.pad_token_id, **ends
    )
    BloomForCausalLM(config).save_pretrained(folder)
    return str(folder)


def write_t5(folder: Path) -> str:
    """Two blocks on each side, 32 wide, without dropout."""
    from transformers import T5Config, T5ForConditionalGeneration

    tokenizer = _tokenizer(folder)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)
