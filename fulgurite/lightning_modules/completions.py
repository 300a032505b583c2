"""Log-probabilities of completions in a batch of trees (or of plain rows): one forward, supervised tokens only.

The collated batch (:mod:`fulgurite.data.tree_rows`) says for each supervised token from which hidden state it is predicted
and to which completion it belongs, so that shared prompts, packs and padded rows are all the same here.
"""

from __future__ import annotations

import torch
from torch import nn

from fulgurite.kernels import linear_log_probs
from fulgurite.lightning_modules.decoding import Decoding
from fulgurite.lightning_modules.objectives import Batch
from fulgurite.models import head_options

__all__ = ["CompletionLogProbs"]


class CompletionLogProbs:
    """Callable ``(network, batch) -> (C,)``: log-probability of each completion, summed over its tokens, float32 or wider."""

    def __init__(self) -> None:
        self._decoding = Decoding()

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """batch: input_ids (B, T), sources, targets, owner (K,), lengths (C,), and the structure or an attention mask."""
        sources, targets, owner = batch["sources"], batch["targets"], batch["owner"]
        states, head = self._decoding.states(network, self._decoding.inputs(network, batch))
        states = states.flatten(0, 1)[sources]
        if head is None:
            wide = states.to(torch.promote_types(states.dtype, torch.float32))
            tokens = wide.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        else:
            tokens = linear_log_probs(states, head.weight, targets, **head_options(head))
        return tokens.new_zeros(len(batch["lengths"])).index_add(0, owner, tokens)
