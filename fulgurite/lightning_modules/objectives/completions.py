"""Log-probabilities and rewards of completions in a batch of trees (or of plain rows), by one forward.

The collated batch (:mod:`fulgurite.data.trees.rows`) says for each supervised token from which hidden state it is predicted
and to which completion it belongs, so that shared prompts, packs and padded rows are all the same here.
"""

from __future__ import annotations

import torch
from torch import nn

from fulgurite.kernels import linear_log_probs
from fulgurite.lightning_modules.objectives.decoding import Decoding
from fulgurite.lightning_modules.objectives.step import Batch, forward_inputs
from fulgurite.models import RewardModel, head_options

__all__ = ["CompletionLogProbs", "CompletionRewards"]


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


class CompletionRewards:
    """Callable ``(network, batch) -> (C,)``: the reward of each completion, float32 or wider.

    The network is a :class:`fulgurite.models.RewardModel`, whose head reads the completion's last token, wherever in a tree it
    stands; or a transformers model with one label, for padded rows.
    """

    def __init__(self) -> None:
        self._decoding = Decoding()

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """batch: input_ids (B, T), ends (C,), and the structure or an attention mask."""
        ends = batch["ends"]
        if isinstance(network, RewardModel):
            states = network(**self._decoding.inputs(network, batch)).last_hidden_state
            return network.rewards(states.flatten(0, 1)[ends])
        if "cu_seq_lens" in batch:
            raise ValueError(
                f"CompletionRewards: {type(network).__name__} reads one reward per row with its classification head, and a packed "
                "row holds several texts; set the data's packing to false."
            )
        logits = network(**forward_inputs(batch)).logits
        rows: torch.Tensor = logits.to(torch.promote_types(logits.dtype, torch.float32)).squeeze(-1)
        return rows[ends // batch["input_ids"].shape[1]]
