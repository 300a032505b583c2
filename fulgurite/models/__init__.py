"""Everything that knows transformers: loading backbones, finding their new heads, activation checkpointing."""

from fulgurite.models.checkpointing import enable_activation_checkpointing
from fulgurite.models.loading import TASKS, Backbone, load_backbone

__all__ = ["TASKS", "Backbone", "enable_activation_checkpointing", "load_backbone"]
