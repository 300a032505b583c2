"""SoRA (arXiv 2311.11696): LoRA with a gate per rank, ΔW = α/r · B diag(g) A, gates shrunk by a proximal step.

The sparsifying schedule is the paper's Algorithm 1: stages with rising thresholds, each continuing from the one before,
with the learning rate warmed up and decayed anew (the released code leaves it at 0 from the second stage on). At the end
of each stage memorisation (metric on random training rows) and generalisation (metric on validation rows) are reported against
the non-zero parameters, in per cent of stage 0, as section 4.4 of the paper plots them.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from fulgurite.adapters import SoRA
from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.checks.sharing import holds_parameters_alone
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.by_name import Perplexity, make_metrics
from fulgurite.models.modes import evaluation_mode
from fulgurite.optim import StagedSchedule, threshold_stages

__all__ = ["SoRAModule"]


@inherits_options(FinetuneModule, without=("adapter", "from_scratch"), learning_rate=8e-4, weight_decay=0.1)
class SoRAModule(FinetuneModule):
    """Fine-tune a backbone with SoRA.

    Args:
        task: what is optimised.
        rank: largest rank of every adapted layer.
        alpha: the branch is scaled by alpha / rank.
        dropout: dropout probability on the branch's input.
        targets: "all-linear" (inside the repeated blocks), or a regex that matches whole names of modules and of experts' weights.
        threshold: what the proximal step takes off each gate per optimizer step (ξ in the paper), at the peak learning rate.
        threshold_scaling: "lr" scales the threshold with the learning rate's schedule, "constant" does not (released code).
        prox: "soft" is the soft threshold; "reference" is the released code's rule, which zeroes all below 2ξ.
        gate_init: "normal" (released code), "absnormal" or "ones".
        l1: weight of the extra loss term l1 · mean|g|.
        patience: optimizer steps at zero after which a rank is retired for good (0: never).
        look_every: optimizer steps between two looks at the gates.
        schedule: sparsifying schedule: "linear", "log", "geometric" from threshold to max_threshold, or a list of thresholds.
        stages: number of stages of the schedule.
        max_threshold: threshold of the last stage.
        stage_epochs: epochs of every stage but the first, which takes what is left of trainer.max_epochs.
        learning_rate: peak learning rate of A and B.
        gate_learning_rate: peak learning rate of the gates (default: learning_rate).
        weight_decay: decoupled weight decay of A, B and the head's matrix.
        warmup_ratio: share of each stage's steps spent on linear warm-up.
    """

    whole_because = None

    def __init__(
        self,
        backbone: str,
        task: Literal["classification", "regression", "causal_lm", "seq2seq"] = "classification",
        rank: int = 8,
        alpha: float = 16.0,
        dropout: float = 0.0,
        targets: str = "all-linear",
        threshold: float = 3e-4,
        threshold_scaling: Literal["constant", "lr"] = "lr",
        prox: Literal["soft", "reference"] = "soft",
        gate_init: Literal["normal", "absnormal", "ones"] = "normal",
        l1: float = 0.0,
        patience: int = 100,
        look_every: int = 20,
        schedule: Literal["linear", "log", "geometric"] | list[float] | None = None,
        stages: int | None = None,
        max_threshold: float | None = None,
        stage_epochs: int = 15,
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        thresholds = [threshold] if schedule is None else threshold_stages(schedule, threshold, max_threshold, stages)
        if stage_epochs < 1:
            raise ValueError(f"SoRAModule: stage_epochs={stage_epochs}; each stage needs at least one epoch.")
        super().__init__(
            task=task,
            backbone=backbone,
            adapter=SoRA(
                rank=rank,
                alpha=alpha,
                dropout=dropout,
                targets=targets,
                threshold=thresholds[0],
                threshold_scaling=threshold_scaling,
                prox=prox,
                gate_init=gate_init,
                l1=l1,
                patience=patience,
                look_every=look_every,
            ),
            **options,
        )
        remember(self, arguments, SoRAModule)
        self.thresholds = thresholds
        self.stage_epochs = stage_epochs
        self.stage_reports: list[dict[str, Any]] = []
        self._plan: StagedSchedule | None = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Set the threshold of the stage that this step belongs to."""
        if self._plan is None or len(self.thresholds) == 1:
            return
        threshold = self.thresholds[self._plan.stage(self.global_step)]
        for group in self.trainer.optimizers[0].param_groups:
            if group.get("threshold") is not None:
                group["threshold"] = threshold

    def on_train_epoch_end(self) -> None:
        """At the end of a stage: report it, and cut retired ranks out where no wrapper holds the parameters."""
        super().on_train_epoch_end()
        if len(self.thresholds) == 1 or self.current_epoch + 1 not in self._stage_ends():
            return
        stage = self._stage_ends().index(self.current_epoch + 1)
        if stage >= len(self.stage_reports):
            self.stage_reports.append(self._report(stage))
        if self.adapter is not None and holds_parameters_alone(self, self.trainer):
            self.adapter.shrink(self.trainer.optimizers[0])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Stage reports travel with the checkpoint."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["stage_reports"] = self.stage_reports

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the keys and take the stage reports back."""
        super().on_load_checkpoint(checkpoint)
        self.stage_reports = list(checkpoint.get("stage_reports", []))

    def _schedule(self) -> StagedSchedule:
        if len(self.thresholds) == 1:
            return super()._schedule()
        epochs = self.trainer.max_epochs
        first = (epochs or 0) - (len(self.thresholds) - 1) * self.stage_epochs
        if epochs is None or epochs < 1 or self.trainer.max_steps != -1 or first < 1:
            raise ValueError(
                f"SoRAModule: {len(self.thresholds)} stages of stage_epochs={self.stage_epochs} need trainer.max_epochs of at "
                f"least {(len(self.thresholds) - 1) * self.stage_epochs + 1} and no max_steps; got max_epochs={epochs}, "
                f"max_steps={self.trainer.max_steps}."
            )
        per_epoch = max(1, int(self.trainer.estimated_stepping_batches) // epochs)
        stage_steps = [first * per_epoch] + [self.stage_epochs * per_epoch] * (len(self.thresholds) - 1)
        self._plan = StagedSchedule(stage_steps, self.warmup_ratio, self.lr_schedule)
        return self._plan

    def _stage_ends(self) -> list[int]:
        """Epochs done at the end of each stage."""
        stages = len(self.thresholds)
        last = int(self.trainer.max_epochs or 0)
        return [last - (stages - 1 - stage) * self.stage_epochs for stage in range(stages)]

    def _report(self, stage: int) -> dict[str, Any]:
        assert self.adapter is not None
        table = self.adapter.rank_table()
        name = self.metric_names[0]
        report: dict[str, Any] = {
            "stage": stage,
            "threshold": self.thresholds[stage],
            "nonzero": sum(row.nonzero for row in table),
            "parameters_kept": sum(row.parameters_kept for row in table),
            "metric": name,
            "train_value": self._measure_train(name),
            "val_value": float(self.trainer.callback_metrics.get(f"val_{name}", float("nan"))),
        }
        first = self.stage_reports[0] if self.stage_reports else report
        report["memorization"] = (
            100 * report["train_value"] / first["train_value"] if first["train_value"] else float("nan")
        )
        report["generalization"] = (
            100 * report["val_value"] / first["val_value"] if first["val_value"] else float("nan")
        )
        return report

    @torch.no_grad()
    def _measure_train(self, name: str) -> float:
        """The metric on 1000 random training rows (seed 42), without dropout; nan if the data cannot give them."""
        data: Any = getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "train_subset_dataloader"):
            return float("nan")
        network = self._network()
        metric: Any = Perplexity() if name == "perplexity" else make_metrics([name], self.num_labels or 1, "")
        metric = metric.to(self.device)
        with evaluation_mode(network):
            for batch in data.train_subset_dataloader(count=1000, seed=42):
                with self.trainer.precision_plugin.forward_context():
                    step = self._step(self.trainer.strategy.batch_to_device(batch))
                if name == "perplexity":
                    metric.update(step.loss_sum if step.token_losses is None else step.token_losses.sum(), step.targets)
                else:
                    metric.update(step.predictions, step.labels)
        return float(metric.compute()) if name == "perplexity" else float(metric.compute()[name])
