"""Bases with packed weights: quantised while they are loaded (``quantize=``), or stored so (nf4, int8, GPTQ, AWQ, …).

nf4 is QLoRA's 4-bit NormalFloat in blocks of 64 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314), int8 is
LLM.int8's row-wise format (arXiv 2208.07339); both are bitsandbytes'. Only the linear layers within the blocks are packed. Norms,
embedding and output head keep the dtype asked for; PEFT's prepare_model_for_kbit_training widens them to float32, which adds no
information to a checkpoint in bfloat16, and costs four bytes for each number of embedding and head.

On processors with AVX512-BF16 bitsandbytes repacks a layer in its first forward in evaluation mode. From then on it computes in
bfloat16 and, in training too, without a gradient to the layer's input. That is switched off here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from fulgurite.models.gguf import read_config

__all__ = ["QUANTISATIONS", "keep_plain", "quantisation_of", "quantisation_options", "refuse_untrainable", "stored_as"]

QUANTISATIONS = ("nf4", "int8")


def quantisation_options(quantize: str, name: str, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """What ``from_pretrained`` takes so that weights are packed while they are loaded.

    Args:
        quantize: one of ``QUANTISATIONS``.
        name: of the base, for messages.
        config: the base's configuration.
        dtype: in which layers compute.

    Raises:
        ValueError: another format, or a base that is stored quantised.
        ImportError: bitsandbytes is not installed.
    """
    if quantize not in QUANTISATIONS:
        raise ValueError(
            f"load_backbone: quantize={quantize!r}; allowed are {', '.join(map(repr, QUANTISATIONS))}, or none."
        )
    if (method := _method(config)) is not None:
        raise ValueError(
            f"backbone: {name} is stored quantised ({method}) and cannot be quantised again; leave quantize out, or take the base "
            "in full precision"
        )
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ImportError(
            f"backbone: quantize={quantize!r} needs the package bitsandbytes, which is not installed; pip install "
            "'fulgurite[quantize]'"
        ) from None
    from transformers import BitsAndBytesConfig

    settings: dict[str, Any] = {"load_in_8bit": True}
    if quantize == "nf4":
        settings = {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": dtype,
        }
    # On the CPU, like every base here; Lightning moves it.
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": "cpu"}}


def quantisation_of(model: nn.Module) -> str | None:
    """How a model's weights are packed, in transformers' words, such as "bitsandbytes"; None for plain weights.

    Args:
        model: any.
    """
    return _method(getattr(model, "config", None))


def stored_as(name: str, trust_remote_code: bool = False) -> str | None:
    """How a checkpoint's weights are packed, by its configuration; None for plain weights.

    Args:
        name: hub id or folder.
        trust_remote_code: run configuration code from the checkpoint's repository.
    """
    return _method(read_config(name, trust_remote_code))


def keep_plain(model: nn.Module) -> None:
    """Keep bitsandbytes' layers from the form in which they compute in bfloat16 and without gradients.

    Args:
        model: that was just loaded.
    """
    layers: Iterable[Any] = model.modules()
    for module in layers:
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def refuse_untrainable(owner: str, model: nn.Module, name: str, adapted: bool) -> None:
    """Refuse to train a quantised base as a whole, or one through which no gradient passes.

    Args:
        owner: class name of the module that trains, for the message.
        model: the base.
        name: of the base, for the message.
        adapted: whether an adapter is trained.

    Raises:
        ValueError: one of the two.
    """
    method = quantisation_of(model)
    if method is None:
        return
    if not adapted:
        raise ValueError(
            f"{owner}: the weights of {name} are quantised ({method}) and cannot be trained themselves; give --model.adapter LoRA "
            "or SoRA, or take the base in full precision."
        )
    quantizer: Any = getattr(model, "hf_quantizer", None)
    if quantizer is not None and not quantizer.is_trainable:
        raise ValueError(
            f"{owner}: {name} is quantised with {method}, through whose layers transformers passes no gradient; take the base in "
            "full precision, with --model.quantize nf4 or int8."
        )


def _method(config: Any) -> str | None:
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return None
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    return str(getattr(method, "value", method) or "an unknown method")
