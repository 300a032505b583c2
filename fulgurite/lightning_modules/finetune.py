"""FinetuneModule: any objective with any adapter. Methods are subclasses of it that lay their own options flat.

Loss of a batch: sum over its targets / targets in the whole optimizer step × accumulate × world size. Lightning and DDP then
divide by accumulate and world size again, so uneven batches weigh as one large batch would.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fulgurite.adapters import Adapter, AdapterConfig, attach
from fulgurite.adapters.groups import network_groups
from fulgurite.adapters.methods import UNPROVED
from fulgurite.data.playground import resolve_backbone
from fulgurite.kernels import use_backend
from fulgurite.lightning_modules.checks.before_training import (
    keep_what_autocast_casts,
    refuse_float16,
    refuse_rate_finder,
    say_what_is_left_out,
)
from fulgurite.lightning_modules.checks.checkpoint_keys import check_keys
from fulgurite.lightning_modules.checks.classes import agreed_labels, agreed_names, check_task, name_classes
from fulgurite.lightning_modules.checks.hyperparameters import check_rates, described
from fulgurite.lightning_modules.checks.non_finite import FirstNonFinite
from fulgurite.lightning_modules.checks.replicas import EqualReplicas
from fulgurite.lightning_modules.checks.sharing import averages_weights, holds_parameters_alone
from fulgurite.lightning_modules.checks.sizes import check_sizes, padding_of
from fulgurite.lightning_modules.checks.trained import refuse_untrained, what_is_trained
from fulgurite.lightning_modules.checks.vocabulary import GrownVocabulary
from fulgurite.lightning_modules.metrics.answering import Answers, answer
from fulgurite.lightning_modules.metrics.by_name import MeanLoss
from fulgurite.lightning_modules.metrics.measures import Measures, NamedMeasures
from fulgurite.lightning_modules.objectives.by_task import make_objective
from fulgurite.lightning_modules.objectives.on_host import read_on_host
from fulgurite.lightning_modules.objectives.step import Batch, Objective, Step, StepScale, forward_inputs
from fulgurite.lightning_modules.processes.ending import EndTogether
from fulgurite.lightning_modules.processes.sharding import computed_with
from fulgurite.lightning_modules.processes.strategy import cut
from fulgurite.models import TASKS, Backbone, enable_activation_checkpointing, load_backbone
from fulgurite.models.dropout import switch_dropout_off
from fulgurite.models.padding import name_padding
from fulgurite.models.quantised import refuse_untrainable
from fulgurite.optim import LR_SHAPES, ProximalAdamW, StagedSchedule

__all__ = ["FinetuneModule"]


class FinetuneModule(LightningModule):
    """Base of the methods; not used by itself.

    Args:
        task: "classification", "regression", "causal_lm" or "seq2seq".
        backbone: hub id, folder, or a playground name such as "playground".
        adapter: what is trained beside new heads; None trains the whole network.
        learning_rate: peak learning rate.
        head_learning_rate: peak learning rate of new heads (default: learning_rate).
        gate_learning_rate: peak learning rate of SoRA's gates (default: learning_rate).
        weight_decay: decoupled weight decay of matrices; gates, biases and norms have none.
        warmup_ratio: share of the steps spent on linear warm-up.
        lr_schedule: decay after the warm-up: "linear" or "cosine", both to zero, or "constant".
        num_labels: classes (default: what the data says).
        dtype: dtype of the base weights.
        quantize: pack the base's linear layers while it is loaded, by bitsandbytes: "nf4" (QLoRA) or "int8"; an adapter is trained.
        resize_embeddings: add rows for tokens that the base lacks, and train them: "new" them alone, "all" the whole embedding.
        from_scratch: draw random weights instead of loading them.
        gradient_checkpointing: recompute activations in the backward: less memory, more time.
        kernels: "auto", "triton" or "torch" (default: leave the process's setting alone).
        trust_remote_code: run model code from the checkpoint's repository.
    """

    exports = True  # whether what is trained can leave as one model or one adapter
    trained_part = "the whole network"  # what is trained where there is no adapter
    whole_because: str | None = UNPROVED  # why it needs the whole network on each process; None: it can train on shards
    data_task: str | None = None  # what a datamodule's `task_type` must be where that is not the backbone's task

    def __init__(
        self,
        *,
        task: str,
        backbone: str,
        adapter: AdapterConfig | None = None,
        learning_rate: float = 5e-4,
        head_learning_rate: float | None = None,
        gate_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.06,
        lr_schedule: Literal["linear", "cosine", "constant"] = "linear",
        num_labels: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        quantize: Literal["nf4", "int8"] | None = None,
        resize_embeddings: Literal["new", "all"] | None = None,
        from_scratch: bool = False,
        gradient_checkpointing: bool = False,
        kernels: Literal["auto", "triton", "torch"] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for option, value, allowed in (("task", task, TASKS), ("lr_schedule", lr_schedule, LR_SHAPES)):
            if value not in allowed:
                raise ValueError(f"{name}: {option}={value!r}; allowed are {', '.join(map(repr, allowed))}.")
        rates = {"head_learning_rate": head_learning_rate, "gate_learning_rate": gate_learning_rate}
        check_rates(name, weight_decay, warmup_ratio, learning_rate=learning_rate, **rates)
        self.task, self.backbone, self.adapter_config = task, backbone, adapter
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.head_learning_rate, self.gate_learning_rate = head_learning_rate, gate_learning_rate
        self.warmup_ratio, self.lr_schedule = warmup_ratio, lr_schedule
        self.dtype_name, self.quantize = str(dtype), quantize
        self.num_labels, self.from_scratch, self.trust_remote_code = num_labels, from_scratch, trust_remote_code
        self.gradient_checkpointing, self.kernels = gradient_checkpointing, kernels
        self.vocabulary = GrownVocabulary(name, resize_embeddings)
        self.objective: Objective = make_objective(task)
        self.network: nn.Module | None = None
        self.adapter: Adapter | None = None
        self.metric_names: tuple[str, ...] = ()
        self.chat_template: str | None = None
        self.label_names: list[str] | None = None
        self.pad_token_id: int | None = None
        self._trained = False
        self._kept: list[nn.Parameter] = []
        self._scale, self._first_bad = StepScale(), FirstNonFinite()

    def setup(self, stage: str) -> None:
        """Take the number of labels and the metrics from the datamodule, if there is one."""
        data, owner = getattr(self.trainer, "datamodule", None), type(self).__name__
        if stage == "fit":
            refuse_rate_finder(owner, self.trainer)
        check_task(type(self), self.data_task or self.task, data)
        if self.task == "classification":
            self.num_labels = agreed_labels(owner, self.num_labels, data)
            if "num_labels" in self.hparams:
                self.hparams["num_labels"] = self.num_labels
            if names := getattr(data, "label_names", None):
                self.label_names = agreed_names(owner, self.label_names, [str(name) for name in names])
        self.chat_template = getattr(data, "chat_template", None) or self.chat_template
        self.pad_token_id = padding_of(data, self.pad_token_id)
        self.objective.check_data(owner, data)
        names = tuple(getattr(data, "metric_names", None) or self.objective.metric_names)
        if names != self.metric_names or not hasattr(self, "val_loss"):
            self.metric_names = names
            labels = self.num_labels or getattr(data, "num_labels", None) or 1
            groups = tuple(getattr(data, "tag_names", None) or ())
            self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
            self.val_measures, self.test_measures = (self._measures(labels, groups, p) for p in ("val_", "test_"))

    def _measures(self, labels: int, groups: tuple[str, ...], prefix: str) -> Measures:
        """What a validation or test measures beside the loss; ``prefix``, "val_" or "test_", stands before each name."""
        return NamedMeasures(self.metric_names, labels, groups, prefix)

    def configure_model(self) -> None:
        """Load the backbone, put the adapter in, choose what is trained, once, and cut it into shards if the strategy says so."""
        waiting = (self.task == "classification" and self.num_labels is None) or self.vocabulary.waiting
        if self.network is not None:
            self._meet_data(self.network)
        elif not waiting or self._trainer is not None:  # else on_load_checkpoint will say what is missing
            self._build_on_cpu()
        cut(self.network, self.adapter is not None, self._trainer)

    def _build_on_cpu(self) -> None:
        """Lightning calls configure_model with its device as the default one, which is not for a build's generators and checks."""
        with torch.device("cpu"):
            self._build()

    def _build(self) -> None:
        if self.kernels is not None:
            use_backend(self.kernels)
        loaded = self.load_base()
        refuse_untrainable(type(self).__name__, loaded.model, self.backbone, self.adapter_config is not None)
        grown = self.vocabulary.grow(loaded.model, self._data())
        self._meet_data(loaded.model)
        self._prepare_base(loaded.model)
        if self.adapter_config is not None:
            heads = tuple(name.replace(".", r"\.") for name in (*loaded.new_heads, *grown))
            self.adapter = self._attach(loaded.model, heads)
        if self.gradient_checkpointing:
            enable_activation_checkpointing(loaded.model, self.adapter)
        self.network = loaded.model.train()

    def _meet_data(self, model: nn.Module) -> None:
        """Padding is the data's tokenizer's; tokens and rows of the data must fit into the model."""
        name_padding(model, self.pad_token_id)
        check_sizes(type(self).__name__, model, self.backbone, getattr(self._trainer, "datamodule", None))

    def _attach(self, model: nn.Module, heads: tuple[str, ...]) -> Adapter:
        """Put the adapter in; heads: regexes of the modules that are trained fully."""
        assert self.adapter_config is not None
        return attach(model, self.adapter_config, train=heads)

    def load_base(self) -> Backbone:
        """The backbone with the task's head, as it is before training."""
        loaded = self._load(self.backbone, num_labels=self.num_labels, from_scratch=self.from_scratch)
        name_padding(loaded.model, self.pad_token_id)
        return loaded

    def _load(self, name: str, **options: Any) -> Backbone:
        options |= {"dtype": self.dtype_name, "quantize": self.quantize, "trust_remote_code": self.trust_remote_code}
        return load_backbone(resolve_backbone(name), self.task, **options)

    @property
    def backbone_folder(self) -> str:
        """The folder or hub id that a playground name stands for."""
        return resolve_backbone(self.backbone)

    def second_copy(self, name: str | None = None) -> nn.Module:
        """A frozen copy of the base as the run finds it, without the adapter and without dropout, on this module's device.

        Args:
            name: hub id or folder of another model, which is loaded in the base's place.
        """
        loaded = self._load(name or self.backbone)
        if name is None:
            self._prepare_base(loaded.model)
        switch_dropout_off(loaded.model)
        return loaded.model.requires_grad_(False).eval().to(self.device)

    def _prepare_base(self, model: nn.Module) -> None:
        """A method may change the loaded base before the adapter is attached."""

    def forward(self, batch: Batch) -> Any:
        """The network's output for a batch without its labels."""
        return self._network()(**forward_inputs(batch))

    def _apply_batch_transfer_handler(self, batch: Any, *where: Any, **options: Any) -> Any:
        batch = read_on_host(self, self._data(), self.objective, batch)
        return super()._apply_batch_transfer_handler(batch, *where, **options)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one micro-batch, scaled as the module docstring says."""
        step = self._step(batch)
        self._refuse_non_finite(step.loss_sum, batch_idx)
        loss = step.loss_sum * self._scale(self.trainer, batch, step)
        self._note("train_loss", step.loss_sum.detach() / step.targets.clamp(min=1), prog_bar=True)
        for name, value in self.objective.logged(step).items():
            self._note(f"train_{name}", value, prog_bar=name == self.objective.main)
        return loss + self._penalty()

    def _step(self, batch: Batch) -> Step:
        return computed_with(self._network(), self.objective, batch)

    def _to_train(self) -> list[nn.Parameter]:
        """What is trained, or will be later in the run."""
        return [p for p in self._network().parameters() if p.requires_grad]

    def _penalty(self) -> torch.Tensor | float:
        return 0.0 if self.adapter is None else self.adapter.penalty()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update loss and metrics of the validation rows."""
        self._evaluate(batch, "val_")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update loss and metrics of the test rows."""
        self._evaluate(batch, "test_")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``prediction`` (B,): label ids, values, likeliest labels or texts; for labels ``probability`` (B, C)."""
        if (found := self._answer(batch)) is not None:
            return {"prediction": found.classes if found.texts is None else found.texts}
        logits = self(batch).logits.float()
        if self.task == "regression":
            return {"prediction": logits.squeeze(-1)}
        return {"prediction": logits.argmax(-1), "probability": logits.softmax(-1)}

    def configure_callbacks(self) -> list[Callback]:
        """What checks a run of several processes, and ends it when one of them has ended."""
        return [EqualReplicas(), EndTogether(self._trainer)]

    def on_fit_start(self) -> None:
        """Have ready what the objective needs before the first step."""
        name, network = type(self).__name__, self._network()
        refuse_float16(name, network, self._to_train(), self.trainer)
        say_what_is_left_out(name, network, self.objective.balances_experts)
        self._kept = keep_what_autocast_casts(name, network, self.adapter is not None, self.learning_rate, self.trainer)
        self.objective.prepare(network, self.trainer)

    def on_train_epoch_end(self) -> None:
        """The objective says what was wrong with the epoch."""
        self.objective.end_epoch()

    def on_validation_epoch_end(self) -> None:
        """Log the figures of the whole validation."""
        self._log_figures("val_")

    def on_test_epoch_end(self) -> None:
        """Log the figures of all test rows."""
        self._log_figures("test_")

    def on_train_start(self) -> None:
        """Say what is trained; from here on the weights are not those of an untrained model."""
        self._trained = True
        name_classes(self.network, self.label_names)
        rank_zero_info(what_is_trained(self._network(), self.adapter, self._kept, self.trained_part))

    def on_test_start(self) -> None:
        """Refuse to report test figures of weights that nobody trained."""
        refuse_untrained(type(self).__name__, self._trained)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the data told travels with the checkpoint: number and names of the labels, chat template, padding.

        Weights behind a loss that was no number are not saved.
        """
        self._look_for_non_finite()
        checkpoint["num_labels"], checkpoint["label_names"] = self.num_labels, self.label_names
        checkpoint["chat_template"], checkpoint["pad_token_id"] = self.chat_template, self.pad_token_id
        checkpoint["adapter"] = None if self.adapter_config is None else described(self.adapter_config)
        self.vocabulary.write(self._network(), checkpoint, self.adapter is not None)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds this module's adapter and heads, and nothing of another adapter."""
        self.num_labels = self.num_labels or checkpoint.get("num_labels")
        self.label_names = agreed_names(type(self).__name__, checkpoint.get("label_names"), self.label_names)
        self.chat_template = self.chat_template or checkpoint.get("chat_template")
        self.pad_token_id = checkpoint.get("pad_token_id") if self.pad_token_id is None else self.pad_token_id
        self.vocabulary.read(checkpoint)
        network, state = self._network(), checkpoint["state_dict"]
        self.vocabulary.complete(network, state)
        name_padding(network, self.pad_token_id)
        if self.adapter is not None:
            self.adapter.prepare_load(state, "network.")
        made_of = f"{self.adapter_config} on {self.backbone!r}"
        check_keys(type(self).__name__, network, self.adapter, state, made_of, checkpoint.get("adapter"))
        name_classes(self.network, self.label_names)
        self._trained = True

    def configure_optimizers(self) -> Any:
        """ProximalAdamW, with a warm-up and decay over the run's optimizer steps."""
        optimizer = ProximalAdamW(self.vocabulary.groups(self._network(), self._param_groups()), lr=self.learning_rate)
        if self.adapter is not None:
            alone = holds_parameters_alone(self, self.trainer)
            self.adapter.watch(optimizer, shrink=alone, retire=not averages_weights(self.trainer))
        schedule = self._schedule()
        # A lambda, not the schedule itself: LambdaLR would save its fields and bring old ones back into a longer run.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _param_groups(self) -> list[dict[str, Any]]:
        if self.adapter is not None:
            return self.adapter.param_groups(
                self.learning_rate, self.weight_decay, gate_lr=self.gate_learning_rate, head_lr=self.head_learning_rate
            )
        return network_groups(self._network(), self.learning_rate, self.weight_decay)

    def _schedule(self) -> StagedSchedule:
        steps = self.trainer.estimated_stepping_batches
        shape, steps = ("constant", 1) if steps == float("inf") else (self.lr_schedule, max(1, int(steps)))
        return StagedSchedule([int(steps)], self.warmup_ratio, shape)

    def _network(self) -> nn.Module:
        if self.network is None:
            self._build_on_cpu()
        assert self.network is not None
        return self.network

    def _refuse_non_finite(self, loss: torch.Tensor, batch_idx: int) -> None:
        self._first_bad.note(loss, self.global_step, batch_idx)
        # Off the CPU a look is a synchronisation, so it is taken at the logging interval and before a checkpoint only.
        if loss.device.type == "cpu" or not self.global_step % max(1, getattr(self.trainer, "log_every_n_steps", 1)):
            self._look_for_non_finite()

    def _look_for_non_finite(self) -> None:
        self._first_bad.refuse(type(self).__name__, self.current_epoch)

    def _evaluate(self, batch: Batch, prefix: str) -> None:
        loss, measures = getattr(self, prefix + "loss"), getattr(self, prefix + "measures")
        step = self._step(batch)
        loss.update(step.loss_sum, step.targets)
        measures.take(step, batch)
        if (found := self._answer(batch)) is not None:
            measures.take_answers(found, batch, self._data(), prefix.rstrip("_"))
        named = measures.named()
        self._note(f"{prefix}loss", loss, on_step=False, on_epoch=True, prog_bar=not named)
        for name, metric in named.items():
            self._note(name, metric, on_step=False, on_epoch=True, prog_bar="/" not in name)

    def _log_figures(self, prefix: str) -> None:
        for name, value in getattr(self, prefix + "measures").figures().items():
            shown = name == self.objective.main
            self._note(prefix + name, value, prog_bar=shown, on_step=False, on_epoch=True)

    def _answer(self, batch: Batch) -> Answers | None:
        return answer(self._network(), self.objective, batch, self._data(), self.task == "seq2seq")

    def _data(self) -> Any:
        return getattr(self._trainer, "datamodule", None)

    def _note(
        self, name: str, value: Any, *, prog_bar: bool = False, on_step: bool = True, on_epoch: bool = False
    ) -> None:
        """Log, unless this module sits inside another LightningModule: then logging is that module's affair."""
        if self._current_fx_name is not None:
            self.log(name, value, prog_bar=prog_bar, on_step=on_step, on_epoch=on_epoch)
