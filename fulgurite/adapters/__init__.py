"""Adapters for any nn.Module: attach, train, prune, merge, save, export. No Lightning and no transformers in here."""

from fulgurite.adapters.attaching import attach, find_adapters
from fulgurite.adapters.config import APET, AdapterConfig, LoRA, SoRA
from fulgurite.adapters.eligible import eligible_scalars
from fulgurite.adapters.handle import Adapter, RankRow
from fulgurite.adapters.low_rank import LowRankAdapter
from fulgurite.adapters.scores import fisher_scores
from fulgurite.adapters.sparse import SparseAdapter
from fulgurite.adapters.sparse_branch import positions_in
from fulgurite.adapters.storage import load_adapter, read_adapter_config

__all__ = [
    "APET",
    "Adapter",
    "AdapterConfig",
    "LoRA",
    "LowRankAdapter",
    "RankRow",
    "SoRA",
    "SparseAdapter",
    "attach",
    "eligible_scalars",
    "find_adapters",
    "fisher_scores",
    "load_adapter",
    "positions_in",
    "read_adapter_config",
]
