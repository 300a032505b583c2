"""The eight decoder families at tiny random sizes."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.models.tiny import build

LAYERS = 6
FAMILIES = ("llama", "qwen2", "mistral", "gemma", "gemma2", "opt", "gpt2", "bloom", "gpt_neox")


def family(name: str, layers: int = LAYERS, **settings: Any) -> nn.Module:
    """A model in evaluation mode of a family of :data:`FAMILIES`, whose every parameter is random."""
    number = "n_layer" if name in ("gpt2", "bloom") else "num_hidden_layers"
    return build(name, **{number: layers, **settings}).eval()
