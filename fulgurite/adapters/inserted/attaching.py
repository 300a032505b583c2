"""Puts bottlenecks behind layers and soft prompts before the input, and registers the hooks that do their work."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import cast

from torch import nn

from fulgurite.adapters.config import Bottleneck, SoftPrompt
from fulgurite.adapters.inserted.adapter import InsertedAdapter
from fulgurite.adapters.inserted.bottleneck import BottleneckBranch, put_behind
from fulgurite.adapters.inserted.places import bottleneck_layers, embedding_of
from fulgurite.adapters.inserted.soft_prompt import PromptBranch, host_of, lay_over, lengthen, shorten
from fulgurite.adapters.layers.layer import features, put_branch
from fulgurite.adapters.methods import Choice, Method, Place, Put, largest_size

__all__ = ["BottleneckMethod", "SoftPromptMethod"]


class BottleneckMethod(Method[Bottleneck]):
    """How bottlenecks are attached."""

    def plan(self, model: nn.Module, config: Bottleneck, train: tuple[str, ...], choice: Choice) -> Put:
        """See :func:`fulgurite.adapters.inserted.places.bottleneck_layers`."""
        return partial(_put_bottlenecks, config, bottleneck_layers(model, config, train))

    def sized(self, model: nn.Module, config: Bottleneck, budget: int, train: tuple[str, ...]) -> Bottleneck:
        """The largest width within the budget: W_down, W_up and b_down take 2 N + 1 for each of it, b_up takes N once."""
        widths = [features(layer)[1] for layer in bottleneck_layers(model, config, train).values()]
        width = largest_size(config, model, budget, each=sum(2 * n + 1 for n in widths), fixed=sum(widths))
        return replace(config, width=width)


class SoftPromptMethod(Method[SoftPrompt]):
    """How soft prompts are attached."""

    def plan(self, model: nn.Module, config: SoftPrompt, train: tuple[str, ...], choice: Choice) -> Put:
        """The vectors lie beside the input embedding.

        Raises:
            ValueError: the model has none, or takes no token ids.
        """
        embedding = embedding_of(host_of(model)[0])  # an encoder may have one of its own, tied to the model's
        return partial(_put_prompt, config, embedding)

    def sized(self, model: nn.Module, config: SoftPrompt, budget: int, train: tuple[str, ...]) -> SoftPrompt:
        """The largest number of vectors within the budget."""
        return replace(config, length=largest_size(config, model, budget, each=embedding_of(model).weight.shape[1]))


def _put_bottlenecks(config: Bottleneck, layers: dict[str, nn.Module], place: Place) -> InsertedAdapter:
    adapter = InsertedAdapter(place.model, place.name, config, list(layers), place.heads, place.train)
    branches = [
        BottleneckBranch(features(layer)[1], config.width, next(layer.parameters()).device) for layer in layers.values()
    ]
    for layer, branch in zip(layers.values(), branches, strict=True):
        put_branch(layer, place.name, branch, place.site)
        adapter.hooks.append(layer.register_forward_hook(partial(put_behind, branch, place.name)))
    return adapter


def _put_prompt(config: SoftPrompt, embedding: nn.Module, place: Place) -> InsertedAdapter:
    layer = next(name for name, module in place.model.named_modules() if module is embedding)
    adapter = InsertedAdapter(place.model, place.name, config, [layer], place.heads, place.train)
    host, at = host_of(place.model)
    branch = PromptBranch(cast(nn.Embedding, embedding), config.length, config.init, at)
    put_branch(embedding, place.name, branch, place.site)
    adapter.hooks += [
        host.register_forward_pre_hook(partial(lengthen, branch, place.site, place.name), with_kwargs=True),
        embedding.register_forward_hook(partial(lay_over, branch)),
        host.register_forward_hook(partial(shorten, branch), always_call=True),
    ]
    return adapter
