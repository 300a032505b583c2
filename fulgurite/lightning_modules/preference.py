"""Preference learning on trees: DPO, cDPO, robust, IPO, hinge, KTO, NCA, K-way NCA, InfoNCA, SimPO, CPO and sums of them.

Losses and papers: :mod:`fulgurite.losses`. The reference is the base with the adapter switched off (an SFT adapter may be
merged into it first), a second model, or, for full tuning, the weights that the run began with. Its log-probabilities are
computed once before the first step, kept on disk and reused across epochs and runs; then no step runs the reference.

Dropout is off, as in all published recipes: policy and reference must differ by their weights alone. KTO's mismatched
completions stand beside the right ones under the same prompt, and z0 is a mean over all ranks (TRL: per rank pairs of rows).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fulgurite.adapters import AdapterConfig, load_adapter
from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules.completions import CompletionLogProbs
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.hyperparameters import remember
from fulgurite.lightning_modules.objectives import Batch, Step
from fulgurite.lightning_modules.preference_metrics import PreferenceMetrics
from fulgurite.lightning_modules.reference import ReferenceCache
from fulgurite.lightning_modules.reference_pass import cached_reference
from fulgurite.losses import Completions, PreferenceLoss, kl_baseline, means, preference_metrics
from fulgurite.models import load_backbone

__all__ = ["PreferenceModule"]


class PreferenceModule(FinetuneModule):
    """Train a causal language model on preferences.

    Args:
        backbone: hub id, folder, or a playground name such as "playground".
        loss: a name out of fulgurite.losses.PREFERENCE_LOSSES, or several, which are summed.
        loss_weights: factor of each loss (default: 1 each).
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        init_adapter: folder of an SFT adapter (`fulgurite export --format adapter`) that is merged into the base first.
        reference_model: hub id or folder of another reference (default: the base as this run finds it).
        cache_reference: compute the reference's log-probabilities once, before the first step, and keep them on disk.
        reference_cache: file of such log-probabilities to use (default: one in the datamodule's cache folder, by content).
        beta: strength of the pull to the reference; SimPO wants 2 to 10.
        label_smoothing: probability that a label is wrong, for cdpo, robust, simpo and cpo.
        gamma_ratio: SimPO's target margin as a share of beta.
        cpo_alpha: weight of the chosen answer's NLL in cpo.
        desirable_weight: KTO's weight of desirable rows; Eurus took 1.33 on pairs.
        undesirable_weight: KTO's weight of undesirable rows.
        temperature: of K-way losses' soft labels; 1e-4 takes the best completion only.
        use_margin: subtract each pair's margin, where the rows have one, for dpo and its kin.
        learning_rate: peak learning rate; 5e-7 is usual for full tuning, 5e-6 and more for adapters.
        gate_learning_rate: peak learning rate of SoRA's gates (default: learning_rate).
        weight_decay: decoupled weight decay of matrices.
        warmup_ratio: share of the steps spent on linear warm-up.
        lr_schedule: decay after the warm-up.
        dtype: dtype of the base weights.
        gradient_checkpointing: recompute activations in the backward: less memory, more time.
        kernels: backend of the kernels (default: leave the process's setting alone).
        trust_remote_code: run model code from the checkpoint's repository.
    """

    data_task = "preference"

    def __init__(
        self,
        backbone: str,
        loss: str | list[str] = "dpo",
        loss_weights: list[float] | None = None,
        adapter: AdapterConfig | None = None,
        init_adapter: str | None = None,
        reference_model: str | None = None,
        cache_reference: bool = True,
        reference_cache: str | None = None,
        beta: float = 0.1,
        label_smoothing: float = 0.0,
        gamma_ratio: float = 0.5,
        cpo_alpha: float = 1.0,
        desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0,
        temperature: float = 1e-4,
        use_margin: bool = False,
        learning_rate: float = 5e-6,
        gate_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.1,
        lr_schedule: Literal["linear", "cosine", "constant"] = "cosine",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        kernels: Literal["auto", "triton", "torch"] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        arguments = dict(locals())
        super().__init__(
            task="causal_lm",
            backbone=backbone,
            adapter=adapter,
            learning_rate=learning_rate,
            gate_learning_rate=gate_learning_rate,
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            lr_schedule=lr_schedule,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            kernels=kernels,
            trust_remote_code=trust_remote_code,
        )
        remember(self, arguments, PreferenceModule)
        self.loss = PreferenceLoss(
            loss,
            loss_weights,
            beta=beta,
            label_smoothing=label_smoothing,
            gamma_ratio=gamma_ratio,
            cpo_alpha=cpo_alpha,
            desirable_weight=desirable_weight,
            undesirable_weight=undesirable_weight,
            temperature=temperature,
        )
        if reference_cache is not None and not cache_reference:
            raise ValueError(
                "PreferenceModule: reference_cache was given with cache_reference=false; give one or the other"
            )
        if not self.loss.needs_reference and (reference_model or reference_cache):
            raise ValueError(
                f"PreferenceModule: {', '.join(self.loss.names)} has no reference; leave the reference out"
            )
        self.init_adapter, self.reference_model = init_adapter, reference_model
        self.cache_reference, self.reference_cache = cache_reference, reference_cache
        self.use_margin = use_margin
        self.log_probs = CompletionLogProbs()
        self.objective = self._preference_step
        self._cache: ReferenceCache | None = None
        # In a list: a frozen second model is no submodule, so no checkpoint holds it.
        self._reference: list[nn.Module] = []

    def setup(self, stage: str) -> None:
        """Metrics of preference learning; the data must offer what the loss reads."""
        super().setup(stage)
        kind = getattr(getattr(self.trainer, "datamodule", None), "objective_kind", None)
        if kind is not None and kind != self.loss.kind:
            raise ValueError(
                f"PreferenceModule: {', '.join(self.loss.names)} reads {self.loss.kind}, but the datamodule gives {kind}. "
                f"Give --data.objective_kind {self.loss.kind}, or another loss."
            )
        if not isinstance(getattr(self, "val_preferences", None), PreferenceMetrics):
            self.val_preferences, self.test_preferences = PreferenceMetrics(), PreferenceMetrics()

    def _build(self) -> None:
        super()._build()
        switch_dropout_off(self._network())

    def _prepare_base(self, model: nn.Module) -> None:
        """Merge the SFT adapter before the new one is attached."""
        if self.init_adapter is not None:
            merge_adapter(model, self.init_adapter)

    def on_fit_start(self) -> None:
        """Have the reference ready: log-probabilities of every completion from disk, or computed now."""
        if not self.loss.needs_reference:
            return
        if self.cache_reference:
            self._cache = cached_reference(self)
        elif self.reference_model is not None or self.adapter is None:
            self._reference = [self.load_reference()]

    def load_reference(self) -> nn.Module:
        """A frozen second copy of the reference on this module's device: another model, or the base as the run found it."""
        name = self.reference_model or self.backbone
        loaded = load_backbone(
            resolve_backbone(name), "causal_lm", dtype=self.dtype_name, trust_remote_code=self.trust_remote_code
        )
        if self.reference_model is None:
            self._prepare_base(loaded.model)
        switch_dropout_off(loaded.model)
        return loaded.model.requires_grad_(False).eval().to(self.device)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The scaled loss of one batch of trees; rewards are logged as they come."""
        loss = super().training_step(batch, batch_idx)
        for name, value in means(self._last_metrics).items():
            self._note(f"train_{name}", value, prog_bar=name == "rewards/accuracies")
        return loss

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch) -> torch.Tensor:
        """(C,) of the reference: looked up, or computed."""
        if "reference" in batch:
            return batch["reference"]
        if self._cache is not None:
            found = self._cache.look_up(batch["key"])
            if found is not None:
                return found
        if self._reference:
            return self.log_probs(self._reference[0], batch)
        if self.adapter is not None and self.reference_model is None:
            with self.adapter.disabled():
                return self.log_probs(self._network(), batch)
        self._reference = [self.load_reference()]
        return self.log_probs(self._reference[0], batch)

    def _preference_step(self, network: nn.Module, batch: Batch) -> Step:
        reference = self.reference_log_probs(batch) if self.loss.needs_reference else None
        completions = Completions(self.log_probs(network, batch), batch["lengths"], reference)
        units = self._units(batch, completions)
        parts = self.loss(completions, **units)
        shown = {name: value for name, value in units.items() if name not in ("pairs", "margin", "weight")}
        # A rank whose share only fills up a batch has none.
        pairs = batch["pairs"] if batch["pairs"].numel() or self.loss.kind == "pairs" else None
        self._last_metrics = preference_metrics(self.loss, completions, pairs=pairs, **shown)
        empty = batch["targets"][:0]
        return Step(parts.loss_sum, parts.units, empty, empty)

    def _units(self, batch: Batch, completions: Completions) -> dict[str, Any]:
        """What the loss reads beside the completions."""
        if self.loss.kind == "pairs":
            margin = {"margin": batch["pair_margin"]} if self.use_margin else {}
            return {"pairs": batch["pairs"], "weight": batch["pair_weight"], **margin}
        if self.loss.kind == "groups":
            return {"group": batch["group"], "scores": batch["score"]}
        assert completions.reference is not None
        baseline = kl_baseline(completions.log_probs, completions.reference, batch["kl"])
        total, number = baseline.total, baseline.number
        if self._trainer is not None and self.trainer.world_size > 1:
            gathered: Any = self.all_gather(torch.stack([total.double(), number.double()]))
            total, number = gathered.reshape(-1, 2).sum(0).unbind()
        z0 = (total / number.clamp(min=1)).to(completions.log_probs.dtype)
        examples = (batch["desirable"] >= 0).nonzero().squeeze(1)
        return {
            "desirable": batch["desirable"][examples] == 1,
            "examples": examples,
            "kl": z0,
            "weight": batch["completion_weight"][examples],
        }

    def _evaluate(self, batch: Batch, prefix: str) -> None:
        step = self.objective(self._network(), batch)
        loss = getattr(self, prefix + "loss")
        loss.update(step.loss_sum, step.targets)
        self._note(f"{prefix}loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        getattr(self, prefix + "preferences").update(self._last_metrics)

    def on_validation_epoch_end(self) -> None:
        """Rewards, margins and accuracy of the whole validation, with the accuracy's 95 % interval."""
        self._report("val_")

    def on_test_epoch_end(self) -> None:
        """The same of the test rows."""
        self._report("test_")

    def _report(self, prefix: str) -> None:
        metrics = getattr(self, prefix + "preferences")
        for name, value in metrics.compute().items():
            self._note(prefix + name, value, prog_bar=name == "rewards/accuracies", on_step=False, on_epoch=True)
        metrics.reset()

    def _default_metrics(self) -> tuple[str, ...]:
        return ("rewards/accuracies",)


def merge_adapter(model: nn.Module, folder: str) -> None:
    """Fold the adapter of a folder that ``adapter.save`` wrote into the model's weights, and take it off."""
    adapter = load_adapter(model, folder)
    adapter.merge()
    adapter.detach()
    rank_zero_info(f"{folder} was merged into the base")


def switch_dropout_off(network: nn.Module) -> None:
    """Every probability to 0, by whatever name a model keeps it: evaluation mode would switch checkpointing off as well."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
