"""Log-probabilities and rewards of completions in a batch of trees (or of plain rows), by one forward.

The collated batch (:mod:`fulgurite.data.trees.rows`) says for each supervised token from which hidden state it is predicted
and to which completion it belongs, so that shared prompts, packs and padded rows are all the same here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fulgurite.kernels import linear_log_probs, linear_token_scores
from fulgurite.lightning_modules.objectives.decoding import Decoding
from fulgurite.lightning_modules.objectives.step import Batch, forward_inputs
from fulgurite.models import OutputHead, RewardModel, head_options

__all__ = ["CompletionLogProbs", "CompletionRewards", "TokenLogProbs"]


class TokenLogProbs:
    """Callable ``(network, batch) -> (K,)``: log-probability of each supervised token, float32 or wider.

    Args:
        temperature: T of the sampler, whose distribution is softmax(logits / T).
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self._decoding = Decoding()

    def states(self, network: nn.Module, batch: Batch) -> tuple[torch.Tensor, OutputHead | None]:
        """What predicts each supervised token: hidden states (K, H) and the head, or logits (K, V) and None.

        Args:
            network: a language model.
            batch: input_ids (B, T), sources (K,), and the structure or an attention mask.
        """
        states, head = self._decoding.states(network, self._decoding.inputs(network, batch))
        return states.flatten(0, 1)[batch["sources"]], head

    def of(self, states: torch.Tensor, head: OutputHead | None, targets: torch.Tensor) -> torch.Tensor:
        """Log-probabilities of ``targets``, (K,), under what :meth:`states` gives."""
        if head is None:
            wide = states.to(torch.promote_types(states.dtype, torch.float32)) / self.temperature
            return wide.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        return linear_log_probs(states, head.weight, targets, **self._options(head))

    def with_entropy(self, states: torch.Tensor, head: OutputHead | None, targets: torch.Tensor) -> Any:
        """Log-probabilities and the entropy of each predicted distribution in nats, (K,) each, without gradient."""
        if head is None:
            wide = (states.to(torch.promote_types(states.dtype, torch.float32)) / self.temperature).log_softmax(-1)
            entropy = -(wide.exp() * wide).sum(-1)
            return wide.gather(-1, targets[:, None]).squeeze(-1), entropy
        found = linear_token_scores(states, head.weight, targets, **self._options(head))
        return found.log_probs, found.entropy

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """batch: input_ids (B, T), sources, targets (K,), and the structure or an attention mask."""
        return self.of(*self.states(network, batch), batch["targets"])

    def _options(self, head: OutputHead) -> dict[str, Any]:
        options = head_options(head)
        if self.temperature != 1:
            if head.softcap is not None:
                raise ValueError(
                    f"TokenLogProbs: temperature={self.temperature} with a network that caps its logits; the temperature belongs "
                    "behind the cap, which the fused head does not compute; take temperature 1"
                )
            options["logit_scale"] = options["logit_scale"] / self.temperature
        return options


class CompletionLogProbs:
    """Callable ``(network, batch) -> (C,)``: log-probability of each completion, summed over its tokens, float32 or wider."""

    def __init__(self) -> None:
        self._tokens = TokenLogProbs()

    def __call__(self, network: nn.Module, batch: Batch) -> torch.Tensor:
        """batch: input_ids (B, T), sources, targets, owner (K,), lengths (C,), and the structure or an attention mask."""
        tokens = self._tokens(network, batch)
        return tokens.new_zeros(len(batch["lengths"])).index_add(0, batch["owner"], tokens)


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
