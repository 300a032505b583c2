"""Writes a Llama of transformers, such as the playground's model, as the GGUF file that llama.cpp's converter would make of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fulgurite.data.encoding.tokenizers import load_tokenizer


def write_gguf(model: Any, path: Path, kind: str = "F32", tokenizer: str | None = "playground", **changes: Any) -> Path:
    """The file, with the weights stored as `kind`.

    Args:
        model: LlamaForCausalLM.
        path: of the file.
        kind: ggml's name of a type, such as Q8_0; norms, and rows that are not whole blocks, stay F32.
        tokenizer: whose words go in; None for none.
        changes: "architecture"; "parts", how many files the model has; "tensors", further float32 tensors by name; else keys of the
            architecture, with "__" for dots.
    """
    import gguf

    architecture, more = changes.pop("architecture", "llama"), changes.pop("tensors", {})
    parts = changes.pop("parts", None)
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if parts is not None:
        writer.add_uint16("split.count", parts)
    for key, value in changes.items():
        (writer.add_string if isinstance(value, str) else writer.add_float32)(
            f"{architecture}.{key.replace('__', '.')}", value
        )
    if tokenizer is not None:
        _add_tokenizer(writer, load_tokenizer(tokenizer))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for key, tensor in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float()
        if "q_proj" in key or "k_proj" in key:
            values = _permuted(values, config.num_attention_heads if "q_proj" in key else config.num_key_value_heads)
        fits = values.dim() == 2 and values.shape[1] % 32 == 0  # the length of a block
        stored = gguf.GGMLQuantizationType[kind if fits else "F32"]
        writer.add_tensor(
            names.get_name(key, (".weight",)), gguf.quants.quantize(values.numpy(), stored), raw_dtype=stored
        )
    for key, values in more.items():
        writer.add_tensor(key, np.asarray(values, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _permuted(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rotary halves side by side, as llama.cpp has them."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def _add_tokenizer(writer: Any, tokenizer: Any) -> None:
    import gguf

    described = json.loads(tokenizer.backend_tokenizer.to_str())
    special = {entry["content"] for entry in described["added_tokens"]}
    words = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")  # single digits, then GPT-2's pattern
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.CONTROL if word in special else gguf.TokenType.NORMAL for word in words])
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(True)
    writer.add_chat_template(tokenizer.chat_template)
