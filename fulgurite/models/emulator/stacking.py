"""A model of other layers in another order, whose weights are the Parameters of the model that it is made of.

Each place of the new model has a module of its own, so that a cache, an attention pattern per layer and hooks work at each; the
Parameters in it are those of its source, held once however often the source is repeated. At places that repeat a layer which is
trained elsewhere, its weights as they are now are copied, once for all such places, and frozen.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from fulgurite.models.emulator.layers import find_layers, logits_of_probe

__all__ = ["restack"]


def restack(model: nn.Module, sources: Sequence[int], trained: Sequence[int] = ()) -> nn.Module:
    """A model with the layer ``sources[i]`` of ``model`` at its place i.

    Args:
        model: a causal language model of transformers; it stays as it is, and shares its Parameters.
        sources: numbers of layers, (places,).
        trained: places whose layers are going to be trained: other places with the same source get a frozen copy.

    Raises:
        ValueError: as :func:`find_layers`; a model whose layers compute by their number.
    """
    name, layers = find_layers(model)
    own = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    made = copy.deepcopy(model, dict(own))
    config: Any = made.config
    kept = {id(part): part for part in (config, config.get_text_config())} | own
    copies: dict[int, dict[int, Any]] = {}
    elsewhere = {sources[place] for place in trained}
    templates: Any = made.get_submodule(name)
    stacked, used = [], set()
    for place, source in enumerate(sources):
        memo: dict[int, Any] = dict(kept)
        if source in elsewhere and place not in trained:
            memo |= copies.setdefault(source, _frozen(layers[source]))
        elif source not in used:
            used.add(source)
            stacked.append(templates[source])
            continue
        stacked.append(copy.deepcopy(templates[source], memo))
    parent, _, last = name.rpartition(".")
    setattr(made.get_submodule(parent), last, nn.ModuleList(stacked))
    _select(config, len(layers), sources)
    before = logits_of_probe(made)
    for place, layer in enumerate(stacked):
        for module in layer.modules():
            if isinstance(getattr(module, "layer_idx", None), int):
                module.layer_idx = place
    if not torch.equal(before, logits_of_probe(made)) and bool(before.isfinite().all()):
        raise ValueError(
            f"restack: the layers of {type(model).__name__} compute by their number (such as scale_attn_by_inverse_layer_idx), so "
            "that at another place they are other layers; give a model without that"
        )
    return made


def _frozen(layer: nn.Module) -> dict[int, nn.Parameter]:
    return {id(p): nn.Parameter(p.detach().clone(), requires_grad=False) for p in layer.parameters()}


def _select(config: Any, layers: int, sources: Sequence[int]) -> None:
    """The configuration of the new stack: the number of layers, and lists with an entry for each, such as layer_types."""
    text = config.get_text_config()
    chosen = {
        key: [value[source] for source in sources]
        for key, value in vars(text).items()
        if "layer" in key and isinstance(value, list | tuple) and len(value) == layers
    }
    text.num_hidden_layers = len(sources)
    for key, value in chosen.items():
        setattr(text, key, value)
