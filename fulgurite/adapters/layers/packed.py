"""Linear layers whose weight is stored packed: how the weight in full is made of it, and which layers cannot carry a branch.

bitsandbytes' layers are known by their names, so that this package needs no bitsandbytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["foreign_weight", "packed_keys", "packed_without_linear", "unpacker_of"]

Unpacker = Callable[[Any, torch.dtype], torch.Tensor]
_BUFFERS = ("qweight", "weight_packed")  # GPTQ and AWQ; compressed-tensors


def unpacker_of(layer_class: type) -> Unpacker | None:
    """The function (layer, dtype) -> weight (N, K) of a class of layers that stores its weight packed; None for other classes.

    Args:
        layer_class: of the layer, before it was adapted.
    """
    for base in layer_class.__mro__:
        if base.__module__.partition(".")[0] == "bitsandbytes" and base.__name__ in _UNPACKERS:
            return _UNPACKERS[base.__name__]
    return None


def packed_keys(model: nn.Module) -> dict[str, str]:
    """Keys of ``model.state_dict()`` that belong to packed weights and are no parameters (scales, say), each with its weight's.

    Args:
        model: any.
    """
    found: dict[str, str] = {}
    for name, module in model.named_modules():
        if unpacker_of(getattr(module, "base_class", type(module))) is not None:
            prefix = f"{name}." if name else ""
            state: dict[str, Any] = {}
            module._save_to_state_dict(state, prefix, False)
            plain = {prefix + key for key in (*module._parameters, *module._buffers)}
            found |= {key: f"{prefix}weight" for key in state if key not in plain}
    return found


def packed_without_linear(model: nn.Module) -> dict[str, str]:
    """The layers that store a packed weight and are no linear layers of PyTorch (GPTQ's, AWQ's), by name, with their class.

    Args:
        model: any.
    """
    return {
        name: type(module).__name__
        for name, module in model.named_modules()
        if not isinstance(module, nn.Linear) and any(key in (*module._buffers, *module._parameters) for key in _BUFFERS)
    }


def foreign_weight(layer: nn.Module) -> str | None:
    """The class of a weight that only looks like a tensor in full (torchao's); None for plain ones.

    Args:
        layer: any.
    """
    weight = layer._parameters.get("weight")
    kind = type(None if weight is None else weight.data)
    return kind.__name__ if kind.__module__.partition(".")[0] == "torchao" else None


def _unpack_4bit(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    from bitsandbytes import functional

    weight, state = layer.weight, getattr(layer.weight, "quant_state", None)
    if state is None:
        state = layer.quant_state  # FSDP and casts make new Parameters, which lose it
    if state is None:
        return weight.data.to(dtype)  # not quantised yet
    if getattr(state, "packing_format_for_cpu", False):
        weight.data, weight.quant_state = functional._convert_weight_packed_for_cpu_inverse(weight.data, state)
        state = weight.quant_state
    return functional.dequantize_4bit(weight.data, state).to(dtype)


def _unpack_8bit(layer: Any, dtype: torch.dtype) -> torch.Tensor:
    """W = q · s/127, row by row; activations stay what they are, unlike in bitsandbytes' own forward."""
    weight = layer.weight
    scales = layer.state.SCB if getattr(weight, "SCB", None) is None else weight.SCB
    if weight.dtype != torch.int8 or scales is None:
        return weight.data.to(dtype)
    return (weight.data.to(torch.float32) * (scales.float().unsqueeze(1) / 127.0)).to(dtype)


_UNPACKERS: dict[str, Unpacker] = {"Linear4bit": _unpack_4bit, "Linear8bitLt": _unpack_8bit}
