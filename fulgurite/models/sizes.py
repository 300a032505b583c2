"""How many tokens and positions a model has rows for: what stands beyond them is an IndexError in the middle of training."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["positions_of", "vocabulary_of"]

_TABLES = ("position_embeddings", "wpe", "embed_positions")


def positions_of(network: nn.Module) -> int | None:
    """The most tokens that a model with a table of positions can number; None where positions are computed.

    Args:
        network: of transformers, or a module around such models, of which the smallest table counts.
    """
    found = []
    for name, module in network.named_modules():
        if isinstance(module, nn.Embedding) and name.rpartition(".")[2] in _TABLES:
            # RoBERTa numbers from behind the padding token, OPT and BART have two rows before the first position.
            before = 0 if module.padding_idx is None else module.padding_idx + 1
            found.append(module.num_embeddings - int(getattr(module, "offset", before)))
    # GPT-J keeps its sines in a table.
    found += [len(b) for name, b in network.named_buffers() if name.rpartition(".")[2] == "embed_positions"]
    return min(found, default=None)


def vocabulary_of(network: nn.Module) -> int | None:
    """Token ids that a model can embed and, where it writes text, predict; None for a network without token embeddings.

    Args:
        network: of transformers, or a reward model.
    """
    whole: Any = network
    inner: Any = network if hasattr(network, "get_input_embeddings") else getattr(network, "model", None)
    if inner is None or not hasattr(inner, "get_input_embeddings"):
        return None
    rows = [len(inner.get_input_embeddings().weight)]
    head = whole.get_output_embeddings() if hasattr(whole, "get_output_embeddings") else None
    if head is not None and inner is whole and getattr(head, "weight", None) is not None:
        rows.append(len(head.weight))
    return min(rows)
