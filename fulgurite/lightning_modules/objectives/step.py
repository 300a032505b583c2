"""What is optimised: an objective turns a network and a batch into a Step, and lives through a run from its data to its report.

An objective returns the *sum* over supervised targets, so that the module can divide by the number of targets in the whole
optimizer step (accumulation window and ranks): a mean of means would weigh short batches too much.

    check_data    before the run: does the datamodule give what this objective reads?
    prepare       before the first step of a fit: whatever has to be computed once
    on_host       each batch, before it moves to a GPU: what the host has to know of it
    __call__      each batch: loss, counts and everything that metrics need, in one Step
    logged        after each training step: the figures to log
    end_epoch     after each training epoch: what has to be said about it

What a validation or test makes of the steps is the business of the module's measures (:mod:`fulgurite.lightning_modules.metrics`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.losses import Mean
from fulgurite.models import structure_of

__all__ = ["Batch", "Objective", "Places", "Step", "StepScale", "forward_inputs", "supervised_places"]

Batch = dict[str, torch.Tensor]
_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "decoder_input_ids")


class Step(NamedTuple):
    """What an objective found in one batch.

    Attributes:
        loss_sum: loss summed over targets, () float32 or wider.
        targets: number of targets, () int64.
        predictions: what the metrics compare with ``labels``, both (rows that have a label,); None where nothing is labelled.
        labels: see predictions.
        token_losses: in evaluation of a language model, the loss of each supervised token, (K,) float32 or wider.
        correct: whether the likeliest token was the right one, (K,) bool.
        groups: index of each token's group in the datamodule's ``tag_names``, (K,) int64, -1 without a group; None without groups.
        metrics: named figures of the batch, as sums and counts that add over batches and ranks.
        details: named tensors that only this objective's measures read, such as rewards (C,) or the gate's weights (K, E).
    """

    loss_sum: torch.Tensor
    targets: torch.Tensor
    predictions: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    token_losses: torch.Tensor | None = None
    correct: torch.Tensor | None = None
    groups: torch.Tensor | None = None
    metrics: Mapping[str, Mean] = {}
    details: Mapping[str, torch.Tensor] = {}


class Objective:
    """A loss over batches, with the hooks of its life in a run; by default these do nothing.

    Attributes:
        name: of the loss, for messages.
        reads: the ``objective_kind`` that the datamodule must have ("pairs", "labels", "groups"); None: any.
        metric_names: what is measured where the datamodule names no metrics.
        main: the figure that the progress bar shows.
        balances_experts: whether the auxiliary loss of a mixture of experts is added where the configuration asks for it.
    """

    name: str = ""
    balances_experts = False
    reads: str | None = None
    metric_names: tuple[str, ...] = ()
    main: str | None = None

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss and figures of one batch."""
        raise NotImplementedError

    def check_data(self, owner: str, data: Any) -> None:
        """Refuse a datamodule whose batches hold something else than the loss reads.

        Args:
            owner: class name of the module that asks, for the message.
            data: the datamodule, or None.

        Raises:
            ValueError: the datamodule gives units of another kind.
        """
        given = getattr(data, "objective_kind", None)
        if self.reads is not None and given is not None and given != self.reads:
            raise ValueError(
                f"{owner}: {self.name} reads {self.reads}, but the datamodule gives {given}. "
                f"Give --data.objective_kind {self.reads}, or another loss."
            )

    def prepare(self, network: nn.Module, trainer: Any) -> None:
        """Have ready what the first step needs.

        Args:
            network: what is about to be trained.
            trainer: Lightning's, at the start of a fit.
        """

    def on_host(self, batch: Batch) -> Batch:
        """The batch with what the host has to know of it, read while it lies on the CPU: on a GPU each look would be a wait.

        A batch that did not come by here is good as well; then the objective looks when it needs to know.

        Args:
            batch: as the datamodule gives it; it is not changed.
        """
        if "cu_seq_lens" in batch and batch["cu_seq_lens"].device.type == "cpu":
            return {**batch, "segments": structure_of(batch)}  # type: ignore[dict-item]
        return batch

    def logged(self, step: Step) -> dict[str, torch.Tensor]:
        """What a training step logs under ``train_<name>``, () each."""
        return {name: mean.value() for name, mean in step.metrics.items()}

    def end_epoch(self) -> None:
        """Say what was wrong with the training epoch that ends."""


class StepScale:
    """The factor on a micro-batch's summed loss: its share of the targets of the whole optimizer step.

    Lightning and DDP divide by the accumulated batches and by the processes again.
    """

    def __init__(self) -> None:
        self._warned = False

    def __call__(self, trainer: Any, batch: Batch, step: Step) -> torch.Tensor:
        """() float32; the micro-batch's own mean, with a warning, where the batch does not tell the targets of the step.

        Args:
            trainer: Lightning's.
            batch: with ``tokens_in_window``, as Fulgurite's datamodules write it.
            step: of this batch.
        """
        window = batch.get("tokens_in_window")
        if window is not None:
            return trainer.accumulate_grad_batches * trainer.world_size / window.clamp(min=1)
        if not self._warned and (trainer.accumulate_grad_batches > 1 or trainer.world_size > 1):
            self._warned = True
            rank_zero_warn(
                "The batches carry no 'tokens_in_window', so each micro-batch counts the same however many targets it has. "
                "Fulgurite's datamodules write it; see fulgurite.data.sampling.windows.WindowSampler."
            )
        return 1.0 / step.targets.clamp(min=1)


class Places(NamedTuple):
    """Where a batch is supervised.

    Attributes:
        at: (K,) int64 into the flattened mask.
        stale: () bool, whether the labels were changed since; None where that is known not to be so.
    """

    at: torch.Tensor
    stale: torch.Tensor | None

    def guard(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss, () float; NaN where the places are stale, which the run refuses as soon as it looks."""
        return loss if self.stale is None else torch.where(self.stale, float("nan"), loss)


def supervised_places(batch: Batch, supervised: torch.Tensor) -> Places:
    """The true entries of a mask: those that the batch brings from the host, or looked for now.

    Labels that were changed since the host read them are looked at again on the CPU. On a GPU that would be a wait at each step, so
    there :meth:`Places.guard` makes the loss NaN: take the key ``supervised`` out of the batch together with such a change.

    Args:
        batch: may hold the indices as ``supervised``.
        supervised: the mask, any shape, bool.
    """
    known, flat = batch.get("supervised"), supervised.flatten()
    if known is None:
        return Places(flat.nonzero().squeeze(1), None)
    stale = (flat.sum() != len(known)) | ~flat.index_select(0, known).all()
    if stale.device.type != "cpu":
        return Places(known, stale)
    return Places(flat.nonzero().squeeze(1) if bool(stale) else known, None)


def forward_inputs(batch: Batch) -> Batch:
    """The entries of a batch that the network takes."""
    return {key: batch[key] for key in _INPUTS if key in batch}
