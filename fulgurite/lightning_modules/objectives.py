"""What is optimised: a sum of per-target losses, its number of targets, and what the metrics compare.

An objective returns the *sum* over supervised targets, so that the module can divide by the number of targets in the whole
optimizer step (accumulation window and ranks): a mean of means would weigh short batches too much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

__all__ = ["Batch", "Objective", "Step", "forward_inputs", "make_objective"]

Batch = dict[str, torch.Tensor]
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "decoder_input_ids")


class Step(NamedTuple):
    """What an objective found in one batch.

    Attributes:
        loss_sum: loss summed over targets, () float32 or wider.
        targets: number of targets, () int64.
        predictions: what the metrics compare with ``labels``, both (rows that have a label,); empty for language modelling.
        labels: see predictions.
        token_losses: in evaluation of a language model, the loss of each supervised token, (K,) float32 or wider.
        correct: whether the likeliest token was the right one, (K,) bool.
        groups: index of each token's group in the datamodule's ``tag_names``, (K,) int64, -1 for none; None without groups.
    """

    loss_sum: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor
    labels: torch.Tensor
    token_losses: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    groups: torch.Tensor | None = None


Objective = Callable[[nn.Module, Batch], Step]


def make_objective(task: str) -> Objective:
    """The objective of a task of :data:`fulgurite.models.TASKS`."""
    from fulgurite.lightning_modules.language import LanguageModelling

    if task in ("causal_lm", "seq2seq"):
        return LanguageModelling(shifted=task == "causal_lm")
    return {"classification": classify, "regression": regress}[task]


def forward_inputs(batch: Batch) -> Batch:
    """The entries of a batch that the network takes."""
    return {key: batch[key] for key in _INPUTS if key in batch}


def classify(network: nn.Module, batch: Batch) -> Step:
    """Cross-entropy over classes; labels (B,) int64, -100 for rows without a label."""
    logits = _wide(network(**forward_inputs(batch)).logits)
    labels = batch["labels"]
    loss = F.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")
    known = labels != -100
    return Step(loss, known.sum(), logits.detach().argmax(-1)[known], labels[known])


def regress(network: nn.Module, batch: Batch) -> Step:
    """Squared error, as transformers' sequence classification has it; labels (B,) float, NaN for rows without one."""
    values = _wide(network(**forward_inputs(batch)).logits).squeeze(-1)
    labels = batch["labels"].to(values.dtype)
    known = ~labels.isnan()
    return Step(
        F.mse_loss(values[known], labels[known], reduction="sum"), known.sum(), values.detach()[known], labels[known]
    )


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: a loss in half precision loses its small differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
