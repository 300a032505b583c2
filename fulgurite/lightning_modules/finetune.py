"""FinetuneModule: any objective with any adapter. Methods are subclasses of it that lay their own options flat.

Loss of a batch: sum over its targets / targets in the whole optimizer step × accumulate × world size. Lightning and DDP then
divide by accumulate and world size again, so uneven batches weigh as one large batch would.
"""

from __future__ import annotations

import inspect
import logging
from typing import Any

import torch
from lightning.pytorch import LightningModule, callbacks
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from fulgurite.adapters import Adapter, AdapterConfig, attach
from fulgurite.data.playground import resolve_backbone
from fulgurite.kernels import use_backend
from fulgurite.lightning_modules.checks.classes import agreed_names, name_classes
from fulgurite.lightning_modules.checks.non_finite import FirstNonFinite
from fulgurite.lightning_modules.metrics.answering import AnswerMetrics, Answers, answer
from fulgurite.lightning_modules.metrics.by_name import MeanLoss, TokenMetrics, make_metrics
from fulgurite.lightning_modules.objectives.by_task import make_objective
from fulgurite.lightning_modules.objectives.step import Batch, Step, forward_inputs
from fulgurite.models import TASKS, Backbone, enable_activation_checkpointing, load_backbone
from fulgurite.optim import LR_SHAPES, ProximalAdamW, StagedSchedule

__all__ = ["FinetuneModule"]

_log = logging.getLogger(__name__)
# Lightning 2.6 has the second one; both keep parameters of their own.
_AVERAGES = tuple(
    getattr(callbacks, name) for name in ("StochasticWeightAveraging", "WeightAveraging") if hasattr(callbacks, name)
)


class FinetuneModule(LightningModule):
    """Base of the methods; not used by itself.

    Args:
        task: "classification", "regression", "causal_lm" or "seq2seq".
        backbone: hub id, folder, or a playground name such as "playground".
        adapter: what is trained beside new heads; None trains the whole network.
        learning_rate: peak learning rate.
        head_learning_rate: peak learning rate of new heads (default: learning_rate).
        gate_learning_rate: peak learning rate of gates (default: learning_rate).
        weight_decay: decoupled weight decay of matrices; gates, biases and norms have none.
        warmup_ratio: share of the steps spent on linear warm-up.
        lr_schedule: "linear", "cosine" (both to zero) or "constant".
        num_labels: classes; default: what the datamodule says.
        dtype: dtype of the base weights.
        from_scratch: draw random weights instead of loading them.
        gradient_checkpointing: recompute activations in the backward: less memory, more time.
        kernels: "auto", "triton" or "torch"; default: leave the process's setting alone.
        trust_remote_code: run model code from the checkpoint's repository.
    """

    exports = True  # whether what is trained can leave as one model or one adapter
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
        lr_schedule: str = "linear",
        num_labels: int | None = None,
        dtype: str = "float32",
        from_scratch: bool = False,
        gradient_checkpointing: bool = False,
        kernels: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        for option, value, allowed in (("task", task, TASKS), ("lr_schedule", lr_schedule, LR_SHAPES)):
            if value not in allowed:
                raise ValueError(f"{name}: {option}={value!r}; allowed are {', '.join(map(repr, allowed))}.")
        if learning_rate <= 0 or not 0 <= warmup_ratio <= 1 or weight_decay < 0:
            raise ValueError(
                f"{name}: learning_rate={learning_rate}, weight_decay={weight_decay}, warmup_ratio={warmup_ratio}; "
                "allowed are learning_rate > 0, weight_decay >= 0 and 0 <= warmup_ratio <= 1."
            )
        self.task, self.backbone, self.adapter_config = task, backbone, adapter
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.head_learning_rate, self.gate_learning_rate = head_learning_rate, gate_learning_rate
        self.warmup_ratio, self.lr_schedule = warmup_ratio, lr_schedule
        self.num_labels, self.dtype_name, self.from_scratch = num_labels, dtype, from_scratch
        self.gradient_checkpointing, self.kernels = gradient_checkpointing, kernels
        self.trust_remote_code = trust_remote_code
        self.objective = make_objective(task)
        self.network: nn.Module | None = None
        self.adapter: Adapter | None = None
        self.metric_names: tuple[str, ...] = ()
        self.chat_template: str | None = None
        self.label_names: list[str] | None = None
        self._trained = False
        self._warned = False
        self._first_bad = FirstNonFinite()

    def setup(self, stage: str) -> None:
        """Take the number of labels and the metrics from the datamodule, if there is one."""
        data = getattr(self.trainer, "datamodule", None)
        wanted = getattr(data, "task_type", None)
        mine = self.data_task or self.task
        if wanted is not None and wanted != mine:
            offered = inspect.signature(type(self).__init__).parameters.get("task")
            fits = offered is not None and repr(wanted) in str(offered.annotation)
            way = f"--model.task {wanted}, or " if fits else ""
            raise ValueError(
                f"{type(self).__name__}: its task is {mine!r}, but {type(data).__name__} holds a {wanted} task. "
                f"Give {way}other data, or another module."
            )
        found = getattr(data, "num_labels", None)
        if self.task == "classification" and found:
            if self.num_labels is None:
                self.num_labels = found
                if "num_labels" in self.hparams:
                    self.hparams["num_labels"] = found
            elif self.num_labels != found:
                raise ValueError(
                    f"{type(self).__name__}: num_labels={self.num_labels}, but {type(data).__name__} has {found} classes "
                    f"({', '.join(map(str, getattr(data, 'label_names', None) or []))}). Drop num_labels, or give other data."
                )
        if self.task == "classification" and (names := getattr(data, "label_names", None)):
            self.label_names = agreed_names(type(self).__name__, self.label_names, [str(name) for name in names])
        self.chat_template = getattr(data, "chat_template", None) or self.chat_template
        names = getattr(data, "metric_names", None) or self._default_metrics()
        if tuple(names) != self.metric_names or not hasattr(self, "val_loss"):
            self.metric_names = tuple(names)
            labels = self.num_labels or found or 1
            self.val_metrics = make_metrics(names, labels, "val_")
            self.test_metrics = make_metrics(names, labels, "test_")
            self.val_loss, self.test_loss = MeanLoss(), MeanLoss()
            groups = tuple(getattr(data, "tag_names", None) or ())
            self.val_tokens, self.test_tokens = (TokenMetrics(names, groups, part) for part in ("val_", "test_"))
            self.val_answers, self.test_answers = (AnswerMetrics(tuple(names), part) for part in ("val_", "test_"))

    def configure_model(self) -> None:
        """Load the backbone, put the adapter in, and choose what is trained; once."""
        waiting = self.task == "classification" and self.num_labels is None and self._trainer is None
        if self.network is None and not waiting:  # waiting: on_load_checkpoint will say how many labels there are
            self._build_on_cpu()

    def _build_on_cpu(self) -> None:
        """Lightning calls configure_model with its device as the default one, which is not for a build's generators and checks."""
        with torch.device("cpu"):
            self._build()

    def _build(self) -> None:
        if self.kernels is not None:
            use_backend(self.kernels)
        loaded = self._load()
        self._prepare_base(loaded.model)
        if self.adapter_config is not None:
            heads = tuple(name.replace(".", r"\.") for name in loaded.new_heads)
            self.adapter = self._attach(loaded.model, heads)
        if self.gradient_checkpointing:
            enable_activation_checkpointing(loaded.model, self.adapter)
        self.network = loaded.model.train()

    def _attach(self, model: nn.Module, heads: tuple[str, ...]) -> Adapter:
        """Put the adapter in; heads: regexes of the modules that are trained fully."""
        assert self.adapter_config is not None
        return attach(model, self.adapter_config, train=heads)

    def _load(self) -> Backbone:
        """The backbone with the task's head."""
        return load_backbone(
            resolve_backbone(self.backbone),
            self.task,
            num_labels=self.num_labels,
            dtype=self.dtype_name,
            from_scratch=self.from_scratch,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def backbone_folder(self) -> str:
        """The folder or hub id that a playground name stands for."""
        return resolve_backbone(self.backbone)

    def _prepare_base(self, model: nn.Module) -> None:
        """A method may change the loaded base before the adapter is attached."""

    def forward(self, batch: Batch) -> Any:
        """The network's output for a batch without its labels."""
        return self._network()(**forward_inputs(batch))

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """Loss of one micro-batch, scaled as the module docstring says."""
        step = self.objective(self._network(), batch)
        self._refuse_non_finite(step.loss_sum, batch_idx)
        loss = step.loss_sum * self._scale(batch, step)
        mean = step.loss_sum.detach() / step.targets.clamp(min=1)
        self._note("train_loss", mean, prog_bar=True)
        return loss + self.adapter.penalty() if self.adapter is not None else loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Update loss and metrics of the validation rows."""
        self._evaluate(batch, "val_")

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Update loss and metrics of the test rows."""
        self._evaluate(batch, "test_")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """``prediction`` (B,) label ids or values and, for classes, ``probability`` (B, C).

        Of a text-to-text task ``prediction`` is the class of the likeliest label, or the list of the texts generated.
        """
        if (found := self._answer(batch)) is not None:
            return {"prediction": found.classes if found.texts is None else found.texts}
        logits = self(batch).logits.float()
        if self.task == "regression":
            return {"prediction": logits.squeeze(-1)}
        return {"prediction": logits.argmax(-1), "probability": logits.softmax(-1)}

    def on_train_start(self) -> None:
        """Say what is trained; from here on the weights are not those of an untrained model."""
        self._trained = True
        name_classes(self.network, self.label_names)
        total = sum(p.numel() for p in self._network().parameters())
        trained = sum(p.numel() for p in self._network().parameters() if p.requires_grad)
        what = "the whole network" if self.adapter is None else f"{type(self.adapter.config).__name__} on "
        if self.adapter is not None:
            what += f"{len(self.adapter.layer_names)} layers" + "".join(f", {head}" for head in self.adapter.head_names)
        rank_zero_info(f"training {trained:,} of {total:,} parameters ({100 * trained / total:.2f} %): {what}")

    def on_test_start(self) -> None:
        """Refuse to report test figures of weights that nobody trained."""
        if not self._trained:
            raise RuntimeError(
                f"{type(self).__name__}: test was called on untrained weights (no checkpoint was loaded and nothing was "
                "fitted). Give --ckpt_path with a checkpoint; to measure the untrained model use validate."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What the data told travels with the checkpoint: number and names of the labels, and the chat template trained with.

        Weights behind a loss that was no number are not saved.
        """
        self._look_for_non_finite()
        checkpoint["num_labels"], checkpoint["label_names"] = self.num_labels, self.label_names
        checkpoint["chat_template"] = self.chat_template

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds this module's adapter and heads, and nothing of another adapter."""
        self.num_labels = self.num_labels or checkpoint.get("num_labels")
        self.label_names = agreed_names(type(self).__name__, checkpoint.get("label_names"), self.label_names)
        self.chat_template = self.chat_template or checkpoint.get("chat_template")
        network = self._network()
        if self.adapter is not None:
            self.adapter.prepare_load(checkpoint["state_dict"], "network.")
        saved = set(checkpoint["state_dict"])
        mine = {f"network.{key}" for key in network.state_dict()}
        required = mine
        if self.adapter is not None:
            required = mine - {f"network.{key}" for key in self.adapter.frozen_keys()}
            required -= {f"network.{key}" for key, _ in network.named_buffers()}
        foreign = {key for key in saved if ".branches." in key} - mine
        if missing := sorted(required - saved) or sorted(foreign):
            raise ValueError(
                f"{type(self).__name__}: the checkpoint does not fit: {len(required - saved)} tensors are missing in it and "
                f"{len(foreign)} belong to another adapter, the first is {missing[0]!r}. "
                f"Load it with the adapter and backbone it was trained with (here {self.adapter_config} on {self.backbone!r})."
            )
        name_classes(self.network, self.label_names)
        self._trained = True

    def configure_optimizers(self) -> Any:
        """ProximalAdamW, with a warm-up and decay over the run's optimizer steps."""
        optimizer = ProximalAdamW(self._param_groups(), lr=self.learning_rate)
        if self.adapter is not None:
            self.adapter.watch(optimizer, shrink=self._holds_parameters_alone(), retire=not self._averaged())
        schedule = self._schedule()
        # A lambda, not the schedule itself: LambdaLR would save its fields and bring old ones back into a longer run.
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _holds_parameters_alone(self) -> bool:
        """Whether replaced parameters are noticed by all who use them: no wrapper, no module around, no weight average."""
        trainer = self.trainer
        alone = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.lightning_module is self
        return alone and not self._averaged()

    def _averaged(self) -> bool:
        """Whether a callback averages the weights over time, whose ranks must then keep their places."""
        return any(isinstance(c, _AVERAGES) for c in getattr(self.trainer, "callbacks", ()))

    def _param_groups(self) -> list[dict[str, Any]]:
        if self.adapter is not None:
            return self.adapter.param_groups(
                self.learning_rate, self.weight_decay, gate_lr=self.gate_learning_rate, head_lr=self.head_learning_rate
            )
        params = [p for p in self._network().parameters() if p.requires_grad]
        matrices, rest = [p for p in params if p.dim() >= 2], [p for p in params if p.dim() < 2]
        return [
            {"name": "matrices", "params": matrices, "lr": self.learning_rate, "weight_decay": self.weight_decay},
            {"name": "no_decay", "params": rest, "lr": self.learning_rate, "weight_decay": 0.0},
        ]

    def _schedule(self) -> StagedSchedule:
        steps = self.trainer.estimated_stepping_batches
        if steps == float("inf"):
            return StagedSchedule([1], self.warmup_ratio, "constant")
        return StagedSchedule([max(1, int(steps))], self.warmup_ratio, self.lr_schedule)

    def _network(self) -> nn.Module:
        if self.network is None:
            self._build_on_cpu()
        assert self.network is not None
        return self.network

    def _scale(self, batch: Batch, step: Step) -> torch.Tensor:
        window = batch.get("tokens_in_window")
        if window is not None:
            return self.trainer.accumulate_grad_batches * self.trainer.world_size / window.clamp(min=1)
        if not self._warned and (self.trainer.accumulate_grad_batches > 1 or self.trainer.world_size > 1):
            self._warned = True
            rank_zero_warn(
                "The batches carry no 'tokens_in_window', so each micro-batch counts the same however many targets it has. "
                "Fulgurite's datamodules write it; see fulgurite.data.sampling.windows.WindowSampler."
            )
        return 1.0 / step.targets.clamp(min=1)

    def _refuse_non_finite(self, loss: torch.Tensor, batch_idx: int) -> None:
        self._first_bad.note(loss, self.global_step, batch_idx)
        # Off the CPU a look is a synchronisation, so it is taken at the logging interval and before a checkpoint only.
        if loss.device.type == "cpu" or not self.global_step % max(1, getattr(self.trainer, "log_every_n_steps", 1)):
            self._look_for_non_finite()

    def _look_for_non_finite(self) -> None:
        found = self._first_bad.look()
        if found is not None:
            step, batch, value = found
            raise FloatingPointError(
                f"{type(self).__name__}: the loss is {value} at optimizer step {step}, batch {batch} of epoch "
                f"{self.current_epoch}; training stops here. Lower the learning rate, use bf16 instead of fp16, or look at that "
                "batch."
            )

    def _evaluate(self, batch: Batch, prefix: str) -> None:
        metrics, loss, tokens = (getattr(self, prefix + part) for part in ("metrics", "loss", "tokens"))
        step = self.objective(self._network(), batch)
        loss.update(step.loss_sum, step.targets)
        if step.predictions.numel():
            metrics.update(step.predictions, step.labels)
        self._evaluate_answers(batch, prefix)
        self._note(f"{prefix}loss", loss, on_step=False, on_epoch=True)
        for name, metric in metrics.items():
            self._note(name, metric, on_step=False, on_epoch=True, prog_bar=True)
        tokens.update(step)
        for name, metric in tokens.named().items():
            self._note(name, metric, on_step=False, on_epoch=True, prog_bar="/" not in name)

    def _answer(self, batch: Batch) -> Answers | None:
        data = getattr(self._trainer, "datamodule", None)
        return answer(self._network(), self.objective, batch, data, self.task == "seq2seq")

    def _evaluate_answers(self, batch: Batch, prefix: str) -> None:
        """Score a text-to-text batch by its answers; rows that only fill a batch up have no target and do not count."""
        found = self._answer(batch)
        if found is None:
            return
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        counted = (batch["labels"] != -100).any(1).tolist()
        right = data.references(prefix.rstrip("_"), batch["row"].tolist())
        right = [texts if real else () for texts, real in zip(right, counted, strict=True)]
        if found.texts is not None:
            getattr(self, prefix + "answers").update(found.texts, right)
        elif found.classes is not None:
            known = [i for i, texts in enumerate(right) if texts]
            labels = torch.tensor([data.label_names.index(right[i][0]) for i in known], device=self.device)
            getattr(self, prefix + "metrics").update(found.classes.to(self.device)[known], labels)
        for name, metric in getattr(self, prefix + "answers").named().items():
            self._note(name, metric, on_step=False, on_epoch=True, prog_bar=True)

    def _note(
        self, name: str, value: Any, *, prog_bar: bool = False, on_step: bool = True, on_epoch: bool = False
    ) -> None:
        """Log, unless this module sits inside another LightningModule: then logging is that module's affair."""
        if self._current_fx_name is not None:
            self.log(name, value, prog_bar=prog_bar, on_step=on_step, on_epoch=on_epoch)

    def _default_metrics(self) -> tuple[str, ...]:
        if self.task in ("causal_lm", "seq2seq"):
            return ("perplexity", "token_accuracy")
        return ("pearson", "spearman") if self.task == "regression" else ("accuracy",)
