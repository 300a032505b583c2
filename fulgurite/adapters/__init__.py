"""Adapters for any nn.Module: attach, train, prune, merge, save, export. Nothing here imports Lightning or transformers."""

from types import ModuleType

from fulgurite.adapters.attaching import attach, find_adapters
from fulgurite.adapters.budgets import within_budget
from fulgurite.adapters.config import APET, AdapterConfig, BitFit, Bottleneck, LoRA, SoftPrompt, SoRA
from fulgurite.adapters.handle import Adapter
from fulgurite.adapters.layers.low_rank_branch import RankRow
from fulgurite.adapters.layers.sparse_branch import positions_in
from fulgurite.adapters.loading import load_adapter
from fulgurite.adapters.low_rank.adapter import LowRankAdapter
from fulgurite.adapters.sparse.adapter import SparseAdapter
from fulgurite.adapters.sparse.eligible import eligible_scalars
from fulgurite.adapters.sparse.scores import fisher_scores
from fulgurite.adapters.storage import read_adapter_config

# isort: split
# Each room registers its methods when it is imported.
from fulgurite.adapters import inserted, low_rank, sparse

__all__ = [
    "APET",
    "Adapter",
    "AdapterConfig",
    "BitFit",
    "Bottleneck",
    "LoRA",
    "LowRankAdapter",
    "RankRow",
    "SoRA",
    "SoftPrompt",
    "SparseAdapter",
    "attach",
    "eligible_scalars",
    "find_adapters",
    "fisher_scores",
    "load_adapter",
    "positions_in",
    "read_adapter_config",
    "within_budget",
]


def __getattr__(name: str) -> ModuleType:
    """The file that once held the configurations of the baselines: checkpoints and configurations may still name it."""
    if name == "baselines":
        from fulgurite.adapters import config

        return config
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
