"""Tiny random models of each architecture, with settings that make their peculiarities matter."""

from __future__ import annotations

import torch
from torch import nn

VOCABULARY = 67
WINDOW = 6
_DECODER = dict(
    vocab_size=VOCABULARY,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
_GPT = {key: value for key, value in _DECODER.items() if key != "num_key_value_heads"}
_T5 = dict(vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
_MIXED = dict(use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1)

# name -> (class, class of its configuration, settings)
DECODERS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", _DECODER),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", _DECODER | _MIXED),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", _DECODER | _MIXED | {"head_dim": 8}),
    "mistral": ("MistralForCausalLM", "MistralConfig", _DECODER | {"sliding_window": WINDOW, "head_dim": 8}),
    "gemma2": (
        "Gemma2ForCausalLM",
        "Gemma2Config",
        # Caps low enough to bend the scores of random weights.
        _DECODER
        | dict(
            sliding_window=WINDOW,
            head_dim=8,
            attn_logit_softcapping=0.5,
            final_logit_softcapping=0.5,
            query_pre_attn_scalar=4,
            initializer_range=0.2,
        ),
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        dict(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2),
    ),
    "bloom": (
        "BloomForCausalLM",
        "BloomConfig",
        dict(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, pad_token_id=0),
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", _DECODER | {"sliding_window": WINDOW}),
    "granite": (
        "GraniteForCausalLM",
        "GraniteConfig",
        _DECODER | dict(logits_scaling=3.0, attention_multiplier=0.3, residual_multiplier=0.5),
    ),
    "cohere": ("CohereForCausalLM", "CohereConfig", _DECODER | {"logit_scale": 0.25}),
    "olmo": ("OlmoForCausalLM", "OlmoConfig", _DECODER | {"clip_qkv": 0.05}),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", _GPT),
}
# Not packed by us.
OTHER_DECODERS = {
    "gemma": ("GemmaForCausalLM", "GemmaConfig", _DECODER | {"head_dim": 8}),
    "opt": (
        "OPTForCausalLM",
        "OPTConfig",
        dict(
            vocab_size=VOCABULARY,
            hidden_size=32,
            ffn_dim=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            word_embed_proj_dim=32,
            pad_token_id=0,
        ),
    ),
}
ENCODER_DECODERS = {
    "t5": ("T5ForConditionalGeneration", "T5Config", _T5 | dict(decoder_start_token_id=0)),
    "t5 untied": (
        "T5ForConditionalGeneration",
        "T5Config",
        _T5 | dict(decoder_start_token_id=0, tie_word_embeddings=False),
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        dict(
            vocab_size=VOCABULARY,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=48,
            decoder_ffn_dim=48,
            pad_token_id=1,
        ),
    ),
}


def build(name: str, attention: str | None = None, **settings: object) -> nn.Module:
    """A model in training mode without dropout, whose every parameter is random: no zero biases, no unit norms."""
    import transformers

    cls, config_class, defaults = (DECODERS | OTHER_DECODERS | ENCODER_DECODERS)[name]
    config = getattr(transformers, config_class)(**{**defaults, **settings})
    for field in ("attn_pdrop", "resid_pdrop", "embd_pdrop", "dropout", "dropout_rate", "hidden_dropout"):
        if field in config.to_dict() and field not in settings:
            setattr(config, field, 0.0)
    if attention is None and name == "gemma2":
        attention = "eager"  # transformers 4's sdpa leaves its cap out
    if attention is not None:
        config._attn_implementation = attention
    torch.manual_seed(0)
    model = getattr(transformers, cls)(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model.train()
