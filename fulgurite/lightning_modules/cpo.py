r"""Controllable preference optimisation (CPO; Guo et al., arXiv 2402.19085) of a causal model, in two stages.

* **CPSFT**: next-token loss of answers behind their own ratings, −log π(y | c, x).
* **CDPO**: DPO over pairs that are ordered by g under a condition (:mod:`fulgurite.data.conditions.rated`), with the CPSFT
  model as reference: −log σ(β log[π(y_w|c,x)/π_ref(y_w|c,x)] − β log[π(y_l|c,x)/π_ref(y_l|c,x)]).

Each stage is a fit of its own with its own steps, schedule and checkpoints; ``init_adapter`` carries the first into the second:
CPSFT's adapter is merged into the base, the new one begins at zero, so that policy and reference are equal at step 0.

The objectives with their scales and spelling travel in the checkpoint. The second stage refuses data whose tokens are not those
that the first was trained with (the published code used other spellings in its two stages and in its tests).
"""

from __future__ import annotations

from typing import Any, Literal

from lightning.pytorch.utilities import rank_zero_warn
from torch import nn

from fulgurite.adapters import AdapterConfig
from fulgurite.data.conditions.objectives import Objectives
from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter, stored_conditions
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.measures import Measures
from fulgurite.lightning_modules.metrics.preference import PreferenceMetrics
from fulgurite.lightning_modules.objectives.preference import PreferenceObjective
from fulgurite.lightning_modules.reference.cache import same_weights, weights_fingerprint
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.losses import PreferenceLoss
from fulgurite.models.dropout import switch_dropout_off

__all__ = ["CPOModule"]


@inherits_options(
    FinetuneModule,
    without=("task", "head_learning_rate", "num_labels", "resize_embeddings", "from_scratch"),
    learning_rate=5e-5,
    warmup_ratio=0.1,
)
class CPOModule(FinetuneModule):
    """Train a causal language model to meet requested levels of several objectives.

    Args:
        stage: "cpsft" for supervised training behind the answers' own ratings, then "cdpo" for preferences under conditions.
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        init_adapter: what stage "cpsft" left, merged into the base first: a .ckpt file or a folder of `fulgurite export`.
        cache_reference: in cdpo compute the reference's log-probabilities once, before the first step, and keep them on disk.
        reference_cache: file of such log-probabilities to use (default: one in the datamodule's cache folder, by content).
        beta: strength of the pull to the reference in cdpo.
        learning_rate: peak learning rate; published are 1e-5 for full tuning in cpsft and 5e-5 for an adapter in cdpo.
    """

    def __init__(
        self,
        backbone: str,
        stage: Literal["cpsft", "cdpo"] = "cpsft",
        adapter: AdapterConfig | None = None,
        init_adapter: str | None = None,
        cache_reference: bool = True,
        reference_cache: str | None = None,
        beta: float = 0.1,
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        super().__init__(task="causal_lm", backbone=backbone, adapter=adapter, **options)
        remember(self, arguments, CPOModule)
        if stage not in ("cpsft", "cdpo"):
            raise ValueError(f"CPOModule: stage={stage!r}; allowed are 'cpsft' and 'cdpo', in this order; choose one")
        self.stage, self.init_adapter = stage, init_adapter
        self.conditions: Objectives | None = None
        self.preferences: PreferenceObjective | None = None
        self._begun_with: str | None = None
        if stage == "cdpo":
            self.data_task = "preference"
            self.preferences = self.objective = PreferenceObjective(
                PreferenceLoss("dpo", beta=beta), Reference(self), cache=cache_reference, cache_file=reference_cache
            )

    def setup(self, stage: str) -> None:
        """Take the objectives from the datamodule; stage and tokens must be those that were trained with."""
        data = getattr(self.trainer, "datamodule", None)
        theirs = getattr(data, "stage", self.stage)
        if theirs != self.stage:
            raise ValueError(
                f"CPOModule: its stage is {self.stage!r}, and {type(data).__name__} has stage {theirs!r}; give both the same stage"
            )
        super().setup(stage)
        found = getattr(data, "conditions", None)
        before = self.conditions
        if self.init_adapter is not None:
            before = before or stored_conditions(self.init_adapter)
        if found is not None and before is not None:
            before.check_same(found, "the weights that this run begins with", "the data")
        # What an earlier stage saw is still known to the model.
        self.conditions = before or found
        if self.preferences is not None and self.init_adapter is None and stage == "fit":
            rank_zero_warn(
                "CPOModule: stage cdpo without init_adapter: the reference is the backbone as it stands. That is right where the "
                "backbone is a CPSFT model itself; else give init_adapter the .ckpt file of stage cpsft."
            )

    def _build(self) -> None:
        super()._build()
        if self.preferences is not None:
            switch_dropout_off(self._network())
        if self.init_adapter is not None and self.adapter is not None:
            self._begun_with = weights_fingerprint(self._network())

    def _prepare_base(self, model: nn.Module) -> None:
        """Merge the earlier stage's adapter before the new one is attached."""
        if self.init_adapter is not None:
            merge_adapter(model, self.init_adapter)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The objectives travel with the checkpoint, and which weights the adapter stands on."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["conditions"] = None if self.conditions is None else self.conditions.to_dict()
        checkpoint["begun_with"] = self._begun_with

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the objectives back; refuse an adapter that was trained on other weights than init_adapter holds now."""
        super().on_load_checkpoint(checkpoint)
        stored = checkpoint.get("conditions")
        if stored is not None:
            self.conditions = Objectives.from_dict(stored)
        before = checkpoint.get("begun_with")
        if before is not None and self._begun_with is not None and not same_weights(self._network(), before):
            raise ValueError(
                f"CPOModule: {self.init_adapter} holds other weights now than those that the checkpoint's adapter was trained on; "
                "give the old file as init_adapter, or train this stage again"
            )

    def _measures(self, labels: int, groups: tuple[str, ...], prefix: str) -> Measures:
        """In cdpo rewards, margins and accuracy; in cpsft those of language modelling."""
        return PreferenceMetrics() if self.preferences is not None else super()._measures(labels, groups, prefix)
