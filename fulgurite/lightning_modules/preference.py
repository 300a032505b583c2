"""Preference learning on trees: DPO, cDPO, robust, IPO, hinge, KTO, NCA, K-way NCA, InfoNCA, SimPO, CPO and sums of them.

Losses and papers: :mod:`fulgurite.losses`. The reference is the base with the adapter switched off (an SFT adapter may be
merged into it first), a second model, or, for full tuning, the weights that the run began with. Its log-probabilities are
computed once before the first step, kept on disk and reused across epochs and runs; then no step runs the reference.

Dropout is off, as in all published recipes: policy and reference must differ by their weights alone. KTO's mismatched
completions stand beside the right ones under the same prompt, and z0 is a mean over all ranks (TRL: per rank pairs of rows).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from fulgurite.adapters import AdapterConfig
from fulgurite.data.inherited_options import inherits_options
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.checks.initial_weights import merge_adapter
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.preference import PreferenceMetrics
from fulgurite.lightning_modules.objectives.preference import PreferenceObjective
from fulgurite.lightning_modules.reference.model import Reference
from fulgurite.losses import PreferenceLoss
from fulgurite.models.dropout import switch_dropout_off

__all__ = ["PreferenceModule"]


@inherits_options(
    FinetuneModule,
    without=("task", "head_learning_rate", "num_labels", "resize_embeddings", "from_scratch"),
    learning_rate=5e-6,
    warmup_ratio=0.1,
    lr_schedule="cosine",
)
class PreferenceModule(FinetuneModule):
    """Train a causal language model on preferences.

    Args:
        loss: a name out of fulgurite.losses.PREFERENCE_LOSSES, or several, which are summed.
        loss_weights: factor of each loss (default: 1 each).
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        init_adapter: SFT adapter merged into the base first: a folder (`fulgurite export --format adapter`) or a .ckpt file.
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
    """

    whole_because = None
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
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        super().__init__(task="causal_lm", backbone=backbone, adapter=adapter, **options)
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
        self.init_adapter = init_adapter
        self.preferences = PreferenceObjective(
            self.loss,
            Reference(self, reference_model),
            cache=cache_reference,
            cache_file=reference_cache,
            use_margin=use_margin,
        )
        self.objective = self.preferences

    def _build(self) -> None:
        super()._build()
        switch_dropout_off(self._network())

    def _prepare_base(self, model: nn.Module) -> None:
        """Merge the SFT adapter before the new one is attached."""
        if self.init_adapter is not None:
            merge_adapter(model, self.init_adapter)

    def _measures(self, labels: int, groups: tuple[str, ...], prefix: str) -> PreferenceMetrics:
        """Rewards, margins and accuracy, with the accuracy's 95 % interval."""
        return PreferenceMetrics()
