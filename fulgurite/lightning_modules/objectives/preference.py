"""The preference objective: log-probabilities of completions against a reference, a loss over them, and their metrics.

A module that optimises preferences holds one of these and hands on its hooks (:class:`PreferenceModule`, :class:`CPOModule`).
The reference is the base as the run found it: the network with the adapter switched off, or a frozen second copy; or another
model. With a cache its log-probabilities are computed once, before the first step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.preference import PreferenceMetrics
from fulgurite.lightning_modules.objectives.completions import CompletionLogProbs
from fulgurite.lightning_modules.objectives.step import Batch, Step
from fulgurite.lightning_modules.reference.cache import ReferenceCache
from fulgurite.lightning_modules.reference.whole_pass import cached_reference
from fulgurite.losses import Completions, PreferenceLoss, kl_baseline, means, preference_metrics
from fulgurite.models import load_backbone
from fulgurite.models.dropout import switch_dropout_off

__all__ = ["PreferenceObjective"]


class PreferenceObjective:
    """Callable objective ``(network, batch) -> Step`` of a module.

    Attributes:
        last_metrics: sums of rewards and hits of the newest batch, see :func:`fulgurite.losses.preference_metrics`.

    Args:
        module: whose network, adapter, backbone and trainer the reference is made of.
        loss: what is optimised.
        reference_model: hub id or folder of another reference; None takes the base as the run finds it.
        cache: compute the reference's log-probabilities once, before the first step.
        cache_file: file of such log-probabilities; None takes one in the datamodule's cache folder.
        use_margin: subtract each pair's margin.

    Raises:
        ValueError: options that contradict each other.
    """

    def __init__(
        self,
        module: FinetuneModule,
        loss: PreferenceLoss,
        *,
        reference_model: str | None = None,
        cache: bool = True,
        cache_file: str | None = None,
        use_margin: bool = False,
    ) -> None:
        name = type(module).__name__
        if cache_file is not None and not cache:
            raise ValueError(f"{name}: reference_cache was given with cache_reference=false; give one or the other")
        if not loss.needs_reference and (reference_model or cache_file):
            raise ValueError(f"{name}: {', '.join(loss.names)} has no reference; leave the reference out")
        self.module, self.loss, self.use_margin = module, loss, use_margin
        self.reference_model, self.cache, self.cache_file = reference_model, cache, cache_file
        self.log_probs = CompletionLogProbs()
        self.last_metrics: dict[str, Any] = {}
        self._cached: ReferenceCache | None = None
        self._reference: nn.Module | None = None  # this object is no module, so no checkpoint holds it

    def __call__(self, network: nn.Module, batch: Batch) -> Step:
        """Loss over the batch's units."""
        reference = self.reference_log_probs(batch) if self.loss.needs_reference else None
        completions = Completions(self.log_probs(network, batch), batch["lengths"], reference)
        units = self._units(batch, completions)
        parts = self.loss(completions, **units)
        shown = {name: value for name, value in units.items() if name not in ("pairs", "margin", "weight")}
        # A rank whose share only fills up a batch has none.
        pairs = batch["pairs"] if batch["pairs"].numel() or self.loss.kind == "pairs" else None
        self.last_metrics = preference_metrics(self.loss, completions, pairs=pairs, **shown)
        empty = batch["targets"][:0]
        return Step(parts.loss_sum, parts.units, empty, empty)

    def check_data(self) -> None:
        """Refuses a datamodule whose batches hold something else than the loss reads."""
        kind = getattr(getattr(self.module.trainer, "datamodule", None), "objective_kind", None)
        if kind is not None and kind != self.loss.kind:
            raise ValueError(
                f"{type(self.module).__name__}: {', '.join(self.loss.names)} reads {self.loss.kind}, but the datamodule gives "
                f"{kind}. Give --data.objective_kind {self.loss.kind}, or another loss."
            )

    def prepare(self) -> None:
        """Have the reference ready: log-probabilities of every completion from disk, or computed now."""
        if not self.loss.needs_reference:
            return
        if self.cache:
            self._cached = cached_reference(self)
        elif self.reference_model is not None or self.module.adapter is None:
            self._reference = self.load_reference()

    def load_reference(self) -> nn.Module:
        """A frozen second copy of the reference on the module's device: another model, or the base as the run found it."""
        module = self.module
        name = self.reference_model or module.backbone
        loaded = load_backbone(
            resolve_backbone(name), "causal_lm", dtype=module.dtype_name, trust_remote_code=module.trust_remote_code
        )
        if self.reference_model is None:
            module._prepare_base(loaded.model)
        switch_dropout_off(loaded.model)
        return loaded.model.requires_grad_(False).eval().to(module.device)

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch) -> torch.Tensor:
        """(C,) of the reference: looked up, or computed."""
        if "reference" in batch:
            return batch["reference"]
        if self._cached is not None:
            found = self._cached.look_up(batch["key"])
            if found is not None:
                return found
        module = self.module
        if self._reference is None and module.adapter is not None and self.reference_model is None:
            with module.adapter.disabled():
                return self.log_probs(module._network(), batch)
        if self._reference is None:
            self._reference = self.load_reference()
        return self.log_probs(self._reference, batch)

    def note_step(self) -> None:
        """Logs the rewards of the newest training batch."""
        for name, value in means(self.last_metrics).items():
            self.module._note(f"train_{name}", value, prog_bar=name == "rewards/accuracies")

    def evaluate(self, batch: Batch, prefix: str, metrics: PreferenceMetrics) -> None:
        """Updates loss and metrics with a batch of a validation or test.

        Args:
            batch: the batch.
            prefix: "val_" or "test_".
            metrics: the module's own.
        """
        step = self(self.module._network(), batch)
        loss = getattr(self.module, prefix + "loss")
        loss.update(step.loss_sum, step.targets)
        self.module._note(f"{prefix}loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        metrics.update(self.last_metrics)

    def report(self, prefix: str, metrics: PreferenceMetrics) -> None:
        """Logs rewards, margins and accuracy of the whole validation or test, with the accuracy's 95 % interval.

        Args:
            prefix: "val_" or "test_".
            metrics: the module's own, which begin anew afterwards.
        """
        for name, value in metrics.compute().items():
            self.module._note(prefix + name, value, prog_bar=name == "rewards/accuracies", on_step=False, on_epoch=True)
        metrics.reset()

    def _units(self, batch: Batch, completions: Completions) -> dict[str, Any]:
        """What the loss reads beside the completions."""
        if self.loss.kind == "pairs":
            margin = {"margin": batch["pair_margin"]} if self.use_margin else {}
            return {"pairs": batch["pairs"], "weight": batch["pair_weight"], **margin}
        if self.loss.kind == "groups":
            return {"group": batch["group"], "scores": batch["score"]}
        assert completions.reference is not None
        module = self.module
        baseline = kl_baseline(completions.log_probs, completions.reference, batch["kl"])
        total, number = baseline.total, baseline.number
        if module._trainer is not None and module.trainer.world_size > 1:
            gathered: Any = module.all_gather(torch.stack([total.double(), number.double()]))
            total, number = gathered.reshape(-1, 2).sum(0).unbind()
        z0 = (total / number.clamp(min=1)).to(completions.log_probs.dtype)
        examples = (batch["desirable"] >= 0).nonzero().squeeze(1)
        return {
            "desirable": batch["desirable"][examples] == 1,
            "examples": examples,
            "kl": z0,
            "weight": batch["completion_weight"][examples],
        }
