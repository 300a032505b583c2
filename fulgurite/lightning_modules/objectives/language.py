"""The language-modelling objective: token cross-entropy from hidden states, packed or padded, without keeping logits.

A causal model predicts token i + 1 at position i, an encoder-decoder token i at decoder position i. The hidden states of
supervised positions alone go through the head (:func:`fulgurite.kernels.linear_cross_entropy`): prompts, padding and
(T, V) logits cost nothing. Where the head is not a plain linear layer, or does not pass :func:`fulgurite.models.prove_head`,
the model's own logits are taken.

In evaluation the loss, hit and group of every token come along, for perplexity, token accuracy and losses per group.

Mixtures of experts whose configuration asks for it (``output_router_logits``) add their weighted auxiliary loss, in training and in
evaluation, as transformers does; perplexity is that of the tokens alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fulgurite.kernels import linear_cross_entropy, linear_token_scores
from fulgurite.lightning_modules.objectives.decoding import Decoding
from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step, supervised_places
from fulgurite.models import head_options

__all__ = ["LanguageModelling"]

IGNORE = -100


class LanguageModelling(Objective):
    """Cross-entropy of supervised tokens.

    Args:
        shifted: labels (B, T) stand at their own token and are predicted one position earlier (a causal model); False: they
            are the decoder's targets, which the model shifts right itself (an encoder-decoder).
    """

    name, metric_names = "cross-entropy", ("perplexity", "token_accuracy")

    def __init__(self, shifted: bool = True) -> None:
        self.shifted = self.balances_experts = shifted
        self._decoding = Decoding()

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss over the batch's supervised tokens."""
        labels = batch["labels"]
        found = supervised_places(batch, self._supervised(labels))
        places = found.at
        wanted = self._at_targets(labels, places)
        states, head, balance = self._decoding.balanced(network, self._inputs(network, batch), batch)
        if states.shape[:2] != labels.shape:
            raise ValueError(
                f"LanguageModelling: the network gave states of {tuple(states.shape[:2])} tokens for labels of "
                f"{tuple(labels.shape)}; it must give one for each token"
            )
        states = states.flatten(0, 1).index_select(0, places)
        count = torch.full((), len(places), dtype=torch.int64, device=places.device)
        # Per target, so that a step's mean over targets, micro-batches and ranks holds it once.
        extra = balance * len(wanted)
        if torch.is_grad_enabled():
            if head is None:
                loss = self._from_logits(states, wanted)[0].sum()
            else:
                loss = linear_cross_entropy(states, head.weight, wanted, **head_options(head)) * len(wanted)
            return Step(found.guard(loss + extra), count)
        if head is None:
            losses, correct = self._from_logits(states, wanted)
        else:
            scores = linear_token_scores(states, head.weight, wanted, **head_options(head))
            losses, correct = -scores.log_probs, scores.correct
        groups = self._groups(batch, places)
        return Step(found.guard(losses.sum() + extra), count, token_losses=losses, correct=correct, groups=groups)

    def on_host(self, batch: Batch) -> Batch:
        """The positions whose next token is supervised, and the structure of a pack."""
        batch = super().on_host(batch)
        if "labels" not in batch or batch["labels"].device.type != "cpu":
            return batch
        return {**batch, "supervised": self._supervised(batch["labels"]).flatten().nonzero().squeeze(1)}

    def _inputs(self, network: nn.Module, batch: Batch) -> dict[str, Any]:
        inputs = self._decoding.inputs(network, batch)
        if not self.shifted and "decoder_input_ids" not in inputs:
            make: Any = network.prepare_decoder_input_ids_from_labels
            inputs["decoder_input_ids"] = make(labels=batch["labels"])
        return inputs

    def _supervised(self, labels: torch.Tensor) -> torch.Tensor:
        """Which positions (B, T) predict a supervised token."""
        known = labels != IGNORE
        return F.pad(known[:, 1:], (0, 1)) if self.shifted else known

    def _at_targets(self, per_token: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Entries (K,) of (B, T) at the tokens that the positions ``places`` predict."""
        return per_token.flatten().index_select(0, places + 1 if self.shifted else places)

    @staticmethod
    def _from_logits(logits: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and hit of each token, (K,); logits (K, V)."""
        # At least float32: a loss in half precision loses its small differences.
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return F.cross_entropy(wide, wanted, reduction="none"), wide.detach().argmax(-1) == wanted

    def _groups(self, batch: Batch, places: torch.Tensor) -> torch.Tensor | None:
        """Group of each supervised token; packs have one tag per segment, padded batches one per row."""
        tag = batch.get("tag")
        if tag is None:
            return None
        if "cu_seq_lens" in batch:
            ends = batch["cu_seq_lens"][1:]
            tokens = torch.arange(batch["labels"].shape[1], dtype=ends.dtype, device=ends.device)
            # What rounds the length up is a segment without a tag.
            tags = F.pad(tag.long(), (0, len(ends) - len(tag)), value=-1)
            per_token = tags[torch.searchsorted(ends, tokens, right=True)][None]
        else:
            per_token = tag.long()[:, None].expand_as(batch["labels"])
        return self._at_targets(per_token, places)
