"""Where inserted modules go: behind the output layers of each block, or beside the input embedding."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from fulgurite.adapters.config import Bottleneck
from fulgurite.adapters.layers.targets import find_targets

__all__ = ["bottleneck_layers", "embedding_of"]

# The last linear layer of attention and of the feed-forward part, as the families of transformers call them.
_OUTPUTS = (
    r".*(output\.dense|attention\.dense|attn\.(o_proj|out_proj|c_proj|dense)|attention\.out_lin|Attention\.o|DenseReluDense\.wo"
    r"|down_proj|dense_4h_to_h|mlp\.c_proj|\bfc2|\blin2)"
)


def bottleneck_layers(model: nn.Module, config: Bottleneck, train: tuple[str, ...] = ()) -> dict[str, nn.Module]:
    """The layers that a bottleneck follows, by qualified name.

    Args:
        model: any module; "outputs" knows the names that transformers gives to the layers.
        config: whose targets are looked for.
        train: regexes of modules that are trained fully and therefore left out.

    Raises:
        ValueError: none was found.
    """
    if config.targets != "outputs":
        return find_targets(model, config.targets, train)
    found = {
        name: layer for name, layer in find_targets(model, "all-linear", train).items() if re.fullmatch(_OUTPUTS, name)
    }
    if not found:
        raise ValueError(
            f"Bottleneck: the output layers of attention and feed-forward are not known for {type(model).__name__}; give targets= "
            "a regex of whole module names of linear layers."
        )
    return found


def embedding_of(model: nn.Module) -> nn.Embedding:
    """The input embedding of a transformers model (anything with ``get_input_embeddings``).

    Raises:
        ValueError: there is none.
    """
    get: Any = getattr(model, "get_input_embeddings", None)
    try:
        embedding = get() if callable(get) else None
    except NotImplementedError:  # models of pictures or sound
        embedding = None
    if not isinstance(embedding, nn.Module) or not isinstance(getattr(embedding, "weight", None), torch.Tensor):
        raise ValueError(f"SoftPrompt: {type(model).__name__} has no get_input_embeddings() that gives an embedding.")
    return embedding  # type: ignore[return-value]
