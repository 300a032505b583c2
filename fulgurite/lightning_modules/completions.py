"""Log-probabilities of completions in a batch of trees (or of plain rows): one forward, supervised tokens only.

The collated batch (:mod:`fulgurite.data.tree_rows`) says for each supervised token from which hidden state it is predicted
and to which completion it belongs, so that shared prompts, packs and padded rows are all the same here.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import nn

from fulgurite.kernels import linear_log_probs
from fulgurite.lightning_modules.objectives import Batch
from fulgurite.models import (
    enable_packing,
    enable_trees,
    find_decoder,
    head_options,
    packed_inputs,
    usable_head,
)

__all__ = ["CompletionLogProbs"]


class CompletionLogProbs:
    """Callable ``(network, batch) -> (C,)``: log-probability of each completion, summed over its tokens, float32 or wider."""

    def __init__(self) -> None:
        self._ready: WeakSet[nn.Module] = WeakSet()
        self._with_trees: WeakSet[nn.Module] = WeakSet()
        self._proved: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        # What was proved of a network is proved again in another process: weak references do not travel.
        return {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """batch: input_ids (B, T), sources, targets, owner (K,), lengths (C,), and the structure or an attention mask."""
        inputs = self._inputs(network, batch)
        sources, targets, owner = batch["sources"], batch["targets"], batch["owner"]
        head = usable_head(network, self._proved)
        if head is None:
            logits = network(**inputs).logits.flatten(0, 1)[sources]
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            tokens = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        else:
            hidden = find_decoder(network)(**inputs).last_hidden_state.flatten(0, 1)[sources]
            tokens = linear_log_probs(hidden, head.weight, targets, **head_options(head))
        return tokens.new_zeros(len(batch["lengths"])).index_add(0, owner, tokens)

    def _inputs(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        if "cu_seq_lens" not in batch:
            return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "use_cache": False}
        if network not in self._ready:
            enable_packing(network)
            self._ready.add(network)
        # Rows of their own are trees without parents, which attention by segment is enough for.
        if "parents" in batch and network not in self._with_trees and bool((batch["parents"] >= 0).any()):
            enable_trees(network)
            self._with_trees.add(network)
        return packed_inputs(network, batch)
