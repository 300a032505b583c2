"""What is optimised: a sum of per-target losses, its number of targets, and what the metrics compare.

An objective returns the *sum* over supervised targets, so that the module can divide by the number of targets in the whole
optimizer step (accumulation window and ranks): a mean of means would weigh short batches too much.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

__all__ = ["Batch", "Objective", "Step", "forward_inputs"]

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


def forward_inputs(batch: Batch) -> Batch:
    """The entries of a batch that the network takes."""
    return {key: batch[key] for key in _INPUTS if key in batch}
