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

__all__ = ["Batch", "Objective", "Step", "make_objective"]

Batch = dict[str, torch.Tensor]
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "decoder_input_ids")


class Step(NamedTuple):
    """Loss summed over targets, () float32 or wider; targets, () int64; predictions and labels of the rows that have one."""

    loss_sum: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor
    labels: torch.Tensor


Objective = Callable[[nn.Module, Batch], Step]


def make_objective(task: str) -> Objective:
    """The objective of a task of :data:`fulgurite.models.TASKS`."""
    return {"classification": classify, "regression": regress, "causal_lm": model_language, "seq2seq": translate}[task]


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


def model_language(network: nn.Module, batch: Batch) -> Step:
    """Next-token cross-entropy; labels (B, T) int64, -100 where nothing is to be learnt, shifted in here."""
    logits = _wide(network(**forward_inputs(batch)).logits[:, :-1])
    return _token_step(logits, batch["labels"][:, 1:])


def translate(network: nn.Module, batch: Batch) -> Step:
    """Token cross-entropy of an encoder-decoder; labels (B, T) int64, -100 for padding, shifted right by the model."""
    labels = batch["labels"]
    inputs = forward_inputs(batch)
    if "decoder_input_ids" not in inputs:
        inputs["decoder_input_ids"] = network.prepare_decoder_input_ids_from_labels(labels=labels)  # type: ignore[operator]
    return _token_step(_wide(network(**inputs).logits), labels)


def _wide(logits: torch.Tensor) -> torch.Tensor:
    """At least float32: a loss in half precision loses its small differences."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _token_step(logits: torch.Tensor, labels: torch.Tensor) -> Step:
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="sum")
    known = labels != -100
    return Step(loss, known.sum(), logits.detach().argmax(-1)[known], labels[known])
