"""Activation checkpointing that is right under adapters: the recomputation sees the adapters that the forward saw."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["enable_activation_checkpointing"]


def enable_activation_checkpointing(model: nn.Module, adapter: Any = None) -> None:
    """Switch on non-reentrant activation checkpointing of a transformers model.

    Args:
        model: a transformers model.
        adapter: the attached :class:`fulgurite.adapters.Adapter`, or None. With it, switching adapters between the forward
            and the backward cannot change what is recomputed.

    Raises:
        ValueError: the architecture does not support it.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(
            f"enable_activation_checkpointing: {type(model).__name__} does not support it; set gradient_checkpointing to false."
        )
    options: dict[str, Any] = {"use_reentrant": False}
    if adapter is not None:
        options["context_fn"] = adapter.checkpoint_contexts
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)  # type: ignore[operator]
