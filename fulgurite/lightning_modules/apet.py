"""APET (arXiv 2306.02320): train any number of the network's scalars at any positions, W ← W + δ at `budget` of them.

The adapter is :class:`fulgurite.adapters.APET`; this module lays its options flat. With selection "gradient" the squared
gradients of a few batches (the empirical Fisher information's diagonal) decide before the first step: the same batches on every
rank, whatever their number, without dropout. The positions travel with the checkpoint, so that a resumed run and a test take those
that were trained.

A new head is trained beside the budget, as in every module of this package; the paper's text-to-text runs have none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import nn

from fulgurite.adapters import APET, Adapter, attach, fisher_scores, positions_in
from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.objectives.step import Batch

__all__ = ["APETModule"]


@inherits_options(
    FinetuneModule,
    without=("adapter", "gate_learning_rate", "quantize", "resize_embeddings", "from_scratch"),
    learning_rate=1e-3,
)
class APETModule(FinetuneModule):
    """Fine-tune any scalars of a backbone at any positions.

    Args:
        task: what is optimised.
        budget: number of trained scalars, exactly (whole tensors cannot always meet it); None with selection "mask".
        selection: how they are chosen: "uniform_scalar" among all at random; "per_module" as many of each module; "magnitude"
            the largest; "gradient" those with the largest squared gradients; "tensor_greedy" and "module_group" whole tensors
            and modules at random, as the released code does; "mask" a file's.
        seed: seed of the random positions (the run's own is seed_everything).
        targets: "all", "all-linear" (weights of the linear layers inside the repeated blocks), or a regex matched against whole
            parameter names.
        mask: safetensors file of the positions, for selection "mask".
        storage: "seed" saves values and draws the positions again; "indices" saves them too.
        score_batches: batches of training rows that selection "gradient" looks at.
        learning_rate: peak learning rate of the scalars.
        weight_decay: decay of the scalars towards their values in the base, and of the head's matrix.
    """

    def __init__(
        self,
        backbone: str,
        task: Literal["classification", "regression", "causal_lm", "seq2seq"] = "classification",
        budget: int | None = 4096,
        selection: Literal[
            "uniform_scalar", "tensor_greedy", "module_group", "per_module", "magnitude", "gradient", "mask"
        ] = "uniform_scalar",
        seed: int = 0,
        targets: str = "all",
        mask: str | None = None,
        storage: Literal["seed", "indices"] = "seed",
        score_batches: int = 8,
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        if score_batches < 1:
            raise ValueError(f"APETModule: score_batches={score_batches}; it must be at least 1.")
        super().__init__(
            task=task,
            backbone=backbone,
            adapter=APET(budget=budget, selection=selection, seed=seed, targets=targets, mask=mask, storage=storage),
            **options,
        )
        remember(self, arguments, APETModule)
        self.score_batches = score_batches
        self._by_score, self._targets = selection == "gradient", targets
        self._positions: dict[str, torch.Tensor] | None = None

    def configure_model(self) -> None:
        """Build the network; with selection "gradient" outside of a fit a checkpoint has to say the positions first."""
        fitting = self._trainer is not None and str(getattr(self.trainer.state.fn, "value", "")) == "fit"
        if not self._by_score or fitting or self._positions is not None:
            super().configure_model()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the positions that gradients chose, then check the keys."""
        if self._by_score and self.network is None:
            self._positions = positions_in(checkpoint["state_dict"], "network.", "default")
        super().on_load_checkpoint(checkpoint)

    def _attach(self, model: nn.Module, heads: tuple[str, ...]) -> Adapter:
        if not self._by_score:
            return super()._attach(model, heads)
        assert self.adapter_config is not None
        if self._positions is not None:
            return attach(model, self.adapter_config, train=heads, positions=self._positions)
        several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if several and torch.distributed.get_rank() > 0:
            return attach(model, self.adapter_config, train=heads, positions=_of_first_process(None))
        scores = fisher_scores(model, self._batches(model), self._mean_loss, targets=self._targets, train=heads)
        adapter = attach(model, self.adapter_config, train=heads, scores=scores)
        if several:
            positions: Any = adapter  # a SparseAdapter
            _of_first_process(positions.positions)
        return adapter

    def _batches(self, model: nn.Module) -> list[Batch]:
        data: Any = getattr(self._trainer, "datamodule", None)
        if not hasattr(data, "sample_batches"):
            lack = "there is none" if data is None else f"{type(data).__name__} has no sample_batches()"
            raise ValueError(
                f"APETModule: selection='gradient' looks at batches of the datamodule, and {lack}; fit with one of Fulgurite's "
                "datamodules, load a checkpoint, or choose another selection."
            )
        device = self.device if self._trainer is None else self.trainer.strategy.root_device
        model.to(device)
        return [
            {key: value.to(device) for key, value in batch.items()} for batch in data.sample_batches(self.score_batches)
        ]

    def _mean_loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        step = self.objective(model, batch)
        return step.loss_sum / step.targets.clamp(min=1)


def _of_first_process(positions: dict[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
    """The first process's positions: another process's sums may differ in the last bit, and then choose other scalars."""
    sent: list[Any] = [positions]
    torch.distributed.broadcast_object_list(sent, src=0)
    chosen: dict[str, torch.Tensor] = sent[0]
    return chosen
