"""The auxiliary loss of mixtures of experts, which keeps their load balanced (Switch Transformer, arXiv 2101.03961, eq. 4 to 6).

A configuration asks for it with ``output_router_logits``; transformers then adds ``router_aux_loss_coef`` times the loss to that of
the labels. It is computed by the model's own forward, from which the decoder's states are taken on the way, so that its value is
transformers' own for every architecture.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from fulgurite.models.heads import find_decoder

__all__ = ["asks_for_balance", "balanced_states"]


def asks_for_balance(network: nn.Module) -> bool:
    """Whether the configuration asks for the auxiliary loss.

    Args:
        network: of transformers, or a module around one with its configuration.
    """
    config: Any = getattr(network, "config", None)
    return bool(config is not None and getattr(config.get_text_config(), "output_router_logits", False))


def balanced_states(
    network: nn.Module, inputs: dict[str, Any], real: torch.Tensor | None, logits: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (B, T, H) or logits (B, T, V), and the weighted auxiliary loss, () float32; all with gradients.

    Args:
        network: a causal language model for which :func:`asks_for_balance` holds.
        inputs: its keyword arguments; of a packed row the attention mask may be anything that the decoder understands.
        real: (B, T), 1 for tokens that are not padding: the ones that the loss counts; None: all.
        logits: give logits back instead of states.

    Raises:
        ValueError: the model gives no auxiliary loss.
    """
    kept: list[torch.Tensor] = []
    cuts = not logits and "logits_to_keep" in inspect.signature(network.forward).parameters
    last = {"logits_to_keep": 1} if cuts else {}
    with _taken_on_the_way(find_decoder(network), inputs.get("attention_mask"), kept):
        output: Any = network(**{**inputs, "attention_mask": real, **last, "output_router_logits": True})
    if not isinstance(output.aux_loss, torch.Tensor):
        raise ValueError(
            f"balanced_states: {type(network).__name__} gives no auxiliary loss, although its configuration asks for one "
            "(output_router_logits); set output_router_logits to false in config.json."
        )
    return output.logits if logits else kept[0], _coefficient(network) * output.aux_loss.float()


def _coefficient(network: nn.Module) -> float:
    own = getattr(network, "router_aux_loss_coef", None)
    config: Any = network.config
    return float(config.get_text_config().router_aux_loss_coef if own is None else own)


@contextmanager
def _taken_on_the_way(decoder: nn.Module, mask: Any, kept: list[torch.Tensor]) -> Iterator[None]:
    """Within the block the decoder sees this mask, and its last hidden states go into the list."""

    def swap(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": mask}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append(output.last_hidden_state)

    hooks = [decoder.register_forward_pre_hook(swap, with_kwargs=True), decoder.register_forward_hook(keep)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
