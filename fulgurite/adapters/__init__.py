"""Adapters for any nn.Module: attach, train, prune, merge, save, export. No Lightning and no transformers in here."""

from fulgurite.adapters.attaching import attach, find_adapters
from fulgurite.adapters.config import AdapterConfig, LoRA, SoRA
from fulgurite.adapters.handle import Adapter, RankRow
from fulgurite.adapters.storage import load_adapter, read_adapter_config

__all__ = [
    "Adapter",
    "AdapterConfig",
    "LoRA",
    "RankRow",
    "SoRA",
    "attach",
    "find_adapters",
    "load_adapter",
    "read_adapter_config",
]
