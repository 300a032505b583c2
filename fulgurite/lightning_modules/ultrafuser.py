"""UltraFuser (arXiv 2403.08281): several specialists' predictions blended per token by a gate that is learnt.

For the i-th token of an answer every specialist e, in its own chat template, has a hidden state h_e. One small network g scores
each from its own state, and the logits are blended by the softmax of the scores:

    w = softmax_e(g(h_1), …, g(h_E))        o = Σ_e w_e · logits_e        loss = −log softmax(o)[token]

Stage 1 trains the gate, stage 2 the specialists as well, where ∂loss/∂θ_e carries the factor w_e: the gate is a learning rate
per token. There is no loss that balances the load, on purpose: a specialist is already better on its own domain.

Deviations: the loss is the mean over answer tokens of the whole optimizer step, of all processes (the paper: "averaged over the
batch"); both stages warm up and decay anew; dropout is off unless asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fulgurite.adapters import Adapter, AdapterConfig
from fulgurite.adapters.counting import scalars_in
from fulgurite.data.encoding.specialists import same_vocabulary
from fulgurite.data.inherited_options import inherits_options
from fulgurite.data.playground import resolve_backbone
from fulgurite.generation import GenerationSettings
from fulgurite.generation.fused import FusedWriter
from fulgurite.kernels import use_backend
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.checks.sharing import averages_weights, holds_parameters_alone
from fulgurite.lightning_modules.checks.sizes import check_positions
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.fuser_stages import Stages, check_groups, short_names
from fulgurite.lightning_modules.metrics.fusion import FusionMeasures
from fulgurite.lightning_modules.objectives.fusion import FusionObjective
from fulgurite.lightning_modules.processes.agreeing import average_gradients
from fulgurite.models import FusedNetwork, enable_activation_checkpointing
from fulgurite.models.dropout import switch_dropout_off
from fulgurite.models.fusion.specialists import adapter_base, load_specialists
from fulgurite.models.modes import evaluation_mode
from fulgurite.optim import ProximalAdamW

__all__ = ["UltraFuserModule"]


@inherits_options(
    FinetuneModule,
    without=("task", "head_learning_rate", "num_labels", "quantize", "resize_embeddings", "from_scratch"),
    warmup_ratio=0.03,
    lr_schedule="cosine",
)
class UltraFuserModule(FinetuneModule):
    """Fuse specialists of one vocabulary.

    Args:
        specialists: hub ids or folders of whole models; or folders of adapters, or playground names, on one base.
        backbone: base of the adapters, held once (default: what the adapters name); leave it out for whole models.
        adapter: what stage 2 trains of specialists that are whole models (default: all of their weights).
        gate_hidden: width of the gate's hidden layer.
        blend: what is blended; "probs" and "logprobs" do not depend on the specialists' scales of logits.
        stage_steps: optimizer steps of each stage; one number trains the gate alone.
        learning_rate: peak learning rate of the gate in stage 1.
        stage2_learning_rate: peak learning rate of the specialists in stage 2 (default: learning_rate).
        gate_learning_rate: peak learning rate of the gate in stage 2 (default: that of the specialists).
        dropout: "off", or "model" for the specialists' own probabilities while they are trained.
        warmup_ratio: share of each stage's steps spent on linear warm-up.
        lr_schedule: decay after the warm-up, to the end of each stage.
        dtype: dtype of the specialists' weights; the gate is float32.
        gradient_checkpointing: recompute the specialists' activations in stage 2: less memory, more time.
        trust_remote_code: run model code from the checkpoints' repositories.
    """

    exports = False
    instead_of_export = (
        "several models and a gate, which no other program can load as one; give the checkpoint itself to fulgurite "
        "generate and test"
    )

    def __init__(
        self,
        specialists: list[str],
        backbone: str | None = None,
        adapter: AdapterConfig | None = None,
        gate_hidden: int = 512,
        blend: Literal["logits", "probs", "logprobs"] = "logits",
        stage_steps: list[int] = [400, 5000],  # noqa: B006  never changed
        learning_rate: float = 2e-5,
        stage2_learning_rate: float | None = None,
        gate_learning_rate: float | None = None,
        dropout: Literal["off", "model"] = "off",
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        if len(specialists) < 1 or not 1 <= len(stage_steps) <= 2 or min(stage_steps, default=0) < 1:
            raise ValueError(
                f"UltraFuserModule: specialists={specialists}, stage_steps={stage_steps}; at least one specialist and one or two "
                "stages of at least one optimizer step are needed."
            )
        rates = (stage2_learning_rate, gate_learning_rate)
        if any(rate is not None and rate <= 0 for rate in rates) or gate_hidden < 1:
            raise ValueError(
                f"UltraFuserModule: stage2_learning_rate={rates[0]}, gate_learning_rate={rates[1]}, gate_hidden={gate_hidden}; "
                "all must be above 0."
            )
        super().__init__(
            task="causal_lm",
            backbone=backbone or specialists[0],
            learning_rate=learning_rate,
            gate_learning_rate=gate_learning_rate,
            **options,
        )
        remember(self, arguments, UltraFuserModule)
        self.specialists, self.base = list(specialists), backbone
        self.specialist_adapter, self.gate_hidden, self.blend = adapter, gate_hidden, blend
        self.stage_steps, self.dropout = list(stage_steps), dropout
        self.stage = 0
        later = stage2_learning_rate or learning_rate
        self._stages = Stages(
            self.stage_steps,
            [learning_rate, gate_learning_rate or later],
            later,
            self.weight_decay,
            self.warmup_ratio,
            self.lr_schedule,
        )
        self.chat_templates: list[str] | None = None
        self.objective = FusionObjective()
        self._joined: list[nn.Parameter] = []

    @property
    def specialist_names(self) -> list[str]:
        """Short names, for metrics and pictures: of each path the last part in which it differs from those that end alike."""
        return short_names(self.specialists)

    def setup(self, stage: str) -> None:
        """Metrics by domain, and the templates that the data lays over each specialist's prompts."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        tokenizers = getattr(data, "tokenizers", None)
        if tokenizers is not None:
            self.chat_templates = [str(tokenizer.chat_template) for tokenizer in tokenizers]
            if self.network is not None:
                self._fused.chat_templates = self.chat_templates

    def on_train_start(self) -> None:
        """Say what each stage trains."""
        self._trained = True
        gate = sum(p.numel() for p in self._gate_parameters())
        later = sum(p.numel() for p in self._specialist_parameters())
        whole = scalars_in(self._network())
        steps = self.stage_steps
        second = f", then {steps[1]} steps {gate + later:,}" if len(steps) > 1 else ""
        rank_zero_info(f"training the gate, {gate:,} of {whole:,} parameters, for {steps[0]} steps{second}")

    def on_fit_start(self) -> None:
        """Refuse what would tear the ranks' weights apart: each rank's scaler decides by its own gradients whether to step."""
        if self.trainer.world_size > 1 and len(self.stage_steps) > 1 and str(self.trainer.precision) == "16-mixed":
            raise ValueError(
                "UltraFuserModule: stage 2 on several processes with precision 16-mixed: a process whose gradients overflow skips "
                "its step while the others take theirs. Give --trainer.precision bf16-mixed, or one process."
            )
        super().on_fit_start()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begin stage 2 at its first batch; keep frozen specialists in evaluation mode."""
        if self.stage == 0 and len(self.stage_steps) > 1 and self.global_step >= self.stage_steps[0]:
            self._begin_stage2()
        if self.stage == 0:
            self._freeze_modes()

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Average the gradients that DDP does not know of."""
        if self._joined and self.trainer.world_size > 1:
            average_gradients(self._joined)

    def configure_optimizers(self) -> Any:
        """The gate's groups, and the specialists' where the run is in stage 2 already; both follow their stages' schedules."""
        planned, steps = sum(self.stage_steps), self.trainer.estimated_stepping_batches
        if steps > planned:
            raise ValueError(
                f"UltraFuserModule: the run has {steps} optimizer steps, but stage_steps={self.stage_steps} add up to {planned}; "
                "set trainer.max_epochs=1 with UltraChat2DataModule, whose epoch is the stages, or trainer.max_steps to "
                f"{planned} at most."
            )
        groups = self._stages.gate_groups(self._gate_parameters())
        if self.stage:
            groups += self._specialist_groups()
        optimizer = ProximalAdamW(groups, lr=self.learning_rate)
        if self.stage:
            self._watch_ranks(optimizer)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._stages.factors(groups))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is trained goes into the file: the gate, and in stage 2 the specialists or their adapters."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["fuser_stage"], checkpoint["chat_templates"] = self.stage, self.chat_templates
        mine = set(self._trained_keys())
        checkpoint["state_dict"] = {
            key: value
            for key, value in checkpoint["state_dict"].items()
            if not key.startswith("network.") or key in mine
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the checkpoint's stage, check its keys, and fill in what was never trained."""
        self.chat_templates = self.chat_templates or checkpoint.get("chat_templates")
        self.chat_template = self.chat_template or checkpoint.get("chat_template")
        if "fuser_stage" not in checkpoint:
            raise ValueError(
                "UltraFuserModule: the checkpoint is of another module; give one that UltraFuserModule wrote."
            )
        network = self._fused
        network.chat_templates = self.chat_templates
        if checkpoint["fuser_stage"] and not self.stage:
            self._switch_specialists_on()
        if self.stage and self._trainer is not None and self._trainer.state.fn == TrainerFn.FITTING:
            groups = [*self._stages.gate_groups(self._gate_parameters()), *self._specialist_groups()]
            check_groups(groups, checkpoint.get("optimizer_states") or [])
        saved, wanted = set(checkpoint["state_dict"]), self._trained_keys()
        own = {f"network.{key}": value for key, value in network.state_dict().items()}
        foreign = sorted(key for key in saved if key.startswith("network.") and key not in own)
        if missing := [key for key in wanted if key not in saved] or foreign:
            raise ValueError(
                f"UltraFuserModule: the checkpoint does not fit: {len([k for k in wanted if k not in saved])} tensors are missing "
                f"in it and {len(foreign)} are foreign, the first is {missing[0]!r}. Load it with the specialists it was trained "
                f"with (here {', '.join(self.specialists)})."
            )
        for key, value in own.items():
            checkpoint["state_dict"].setdefault(key, value)
        self._trained = True

    def gate_samples(
        self, tokenizer: Any, views: Sequence[tuple[str, list[list[int]]]], max_new_tokens: int = 64
    ) -> list[tuple[str, list[tuple[str, list[float]]]]]:
        """Answers of the fused model, each as its prompt and its tokens with the specialists' weights.

        Args:
            tokenizer: of the specialists.
            views: prompts as text and as ids for each specialist.
            max_new_tokens: tokens of an answer at most.
        """
        with evaluation_mode(self._fused), torch.no_grad():
            writer = FusedWriter(self._fused, tokenizer, GenerationSettings(max_new_tokens=max_new_tokens))
            answers = [samples[0] for samples in writer.detailed([prompts for _, prompts in views])]
        return [
            (text, list(zip(answer.pieces, answer.weights.tolist(), strict=True)))
            for (text, _), answer in zip(views, answers, strict=True)
        ]

    def _measures(self, labels: int, groups: tuple[str, ...], prefix: str) -> FusionMeasures:
        """Perplexity, token accuracy and gate weights, over all domains and by domain."""
        return FusionMeasures(self.metric_names, groups, self.specialist_names, prefix)

    def _build(self) -> None:
        if self.kernels is not None:
            use_backend(self.kernels)
        folders = [resolve_backbone(name) for name in self.specialists]
        named = {base for base in map(adapter_base, folders) if base}
        base = self.base or (named.pop() if len(named) == 1 else None)
        specialists = load_specialists(
            folders,
            None if base is None else resolve_backbone(base),
            names=self.specialists,
            adapter=self.specialist_adapter,
            dtype=self.dtype_name,
            trust_remote_code=self.trust_remote_code,
        )
        network = FusedNetwork(specialists, self.specialist_names, self.gate_hidden, self.blend)
        network.chat_templates = self.chat_templates
        for model in network.models:
            if self.dropout == "off":
                switch_dropout_off(model)
            if self.gradient_checkpointing:
                enable_activation_checkpointing(model, next((s.adapter for s in specialists if s.model is model), None))
        self._meet_data(network)
        self.network = network.train()

    def _meet_data(self, model: nn.Module) -> None:
        """Tokens and rows of the data must fit into every specialist."""
        self._check_vocabulary(model)
        check_positions(type(self).__name__, model, self.backbone, getattr(self._trainer, "datamodule", None))

    def _check_vocabulary(self, network: Any) -> None:
        """Every token that the specialists' tokenizers share must have a row in each embedding and head."""
        data = getattr(self._trainer, "datamodule", None)
        tokenizers = getattr(data, "tokenizers", None)
        if tokenizers is None:
            return
        shared = same_vocabulary(tokenizers, self.specialists)
        for place, name in enumerate(self.specialist_names):
            model = network.specialist(place)
            for what, part in (
                ("embedding", model.get_input_embeddings()),
                ("output head", model.get_output_embeddings()),
            ):
                if part.weight.shape[0] < shared:
                    raise ValueError(
                        f"UltraFuserModule: the {what} of {name} has {part.weight.shape[0]} rows, but the specialists' tokenizers "
                        f"share {shared} tokens; give the tokenizer that this model was trained with, or another specialist"
                    )

    @property
    def _fused(self) -> FusedNetwork:
        network = self._network()
        assert isinstance(network, FusedNetwork)
        return network

    def _gate_parameters(self) -> list[nn.Parameter]:
        return list(self._fused.gates.parameters())

    def _specialist_parameters(self) -> list[nn.Parameter]:
        """What stage 2 trains of the specialists: their adapters, or all of their weights."""
        groups = [{"params": list(self._fused.models.parameters())}]
        if self._fused_adapters:
            groups = [group for adapter in self._fused_adapters for group in adapter.param_groups(lr=1.0)]
        return list({id(p): p for group in groups for p in group["params"]}.values())

    @property
    def _fused_adapters(self) -> list[Adapter]:
        return [adapter for adapter in self._fused.adapters if adapter is not None]

    def _specialist_groups(self) -> list[dict[str, Any]]:
        return self._stages.specialist_groups(self._fused_adapters, self._specialist_parameters())

    def _watch_ranks(self, optimizer: Any) -> None:
        """From stage 2 on dead ranks of SoRA specialists are retired, as in a run of their own."""
        shrink, retire = holds_parameters_alone(self, self.trainer), not averages_weights(self.trainer)
        for adapter in self._fused_adapters:
            adapter.watch(optimizer, shrink=shrink, retire=retire)

    def _to_train(self) -> list[nn.Parameter]:
        return self._gate_parameters() + (self._specialist_parameters() if len(self.stage_steps) > 1 else [])

    def _penalty(self) -> torch.Tensor | float:
        return sum(adapter.penalty() for adapter in self._fused_adapters) if self.stage else 0.0

    def _switch_specialists_on(self) -> None:
        self.stage = 1
        for p in self._specialist_parameters():
            p.requires_grad_(True)

    def _begin_stage2(self) -> None:
        self._switch_specialists_on()
        self._network().train()
        params = self._specialist_parameters()
        scheduler: Any = self.trainer.lr_scheduler_configs[0].scheduler
        self._stages.join(self.trainer.optimizers[0], scheduler, self._specialist_groups())
        self._watch_ranks(self.trainer.optimizers[0])
        self._joined = params
        rank_zero_info(
            f"step {self.global_step}: stage 2 begins, {sum(p.numel() for p in params):,} parameters of the specialists join"
        )

    def _trained_keys(self) -> list[str]:
        network = self._fused
        if self.stage == 0:
            return [f"network.{key}" for key in network.state_dict() if key.startswith("gates.")]
        frozen = {key for key, p in network.named_parameters(remove_duplicate=False) if not p.requires_grad}
        return [f"network.{key}" for key in network.state_dict() if key not in frozen]

    def _freeze_modes(self) -> None:
        if self._fused.models.training:
            self._fused.models.eval()
