r"""Reward models on pairs and groups: Bradley-Terry with margins, Eurus's direct term, centring, K-way losses.

    r(x, y) = w · h_last(x, y)                                       one bias-free head on the last real token
    L = −log σ(r_c − r_r − m) + d · (−log σ(r_c) − log σ(−r_r))      d: flag of the pair (UltraInteract's), m: its margin

UltraRM (Cui et al., arXiv 2310.01377) subtracts margins; Eurus-RM (Yuan et al., arXiv 2404.02078) adds the direct term to
UltraInteract's pairs only, both with weight 1. What the paper leaves open is an option of the data: the margin's normaliser.
Completions that share a prompt are one tree (:mod:`fulgurite.data.trees.prefix_tree`): each shared token is computed once, and
the head reads the end of every branch. Encoders take padded rows.

Deviations: dropout is off, as in TRL; the head starts at N(0, 1/(H+1)) (Stiennon et al. 2020), which neither paper states.
K-way losses take a completion's reward where NCA and InfoNCA (arXiv 2402.05369) take β·ρ.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_warn

from fulgurite.adapters import AdapterConfig
from fulgurite.data.inherited_options import inherits_options
from fulgurite.data.playground import resolve_backbone
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.metrics.reward import RewardMetrics
from fulgurite.lightning_modules.objectives.reward import REWARD_LOSSES, RewardObjective
from fulgurite.lightning_modules.objectives.step import Batch
from fulgurite.losses import RewardLoss
from fulgurite.models import Backbone, RewardModel, load_reward_model
from fulgurite.models.dropout import switch_dropout_off

__all__ = ["RewardModule"]


@inherits_options(
    FinetuneModule,
    without=("task", "num_labels", "resize_embeddings", "from_scratch"),
    learning_rate=1e-5,
    warmup_ratio=0.1,
    lr_schedule="cosine",
)
class RewardModule(FinetuneModule):
    """Train a reward model on preferences.

    Args:
        backbone: hub id, folder, or a playground name; a language model, an encoder, or a reward model in either layout.
        loss: "bradley_terry" on pairs; "infonca" or "nca_kway" on groups of scored answers.
        use_margin: subtract each pair's margin, where the rows have one; scale it with the data's margin_scale.
        ranking_weight: weight of the Bradley-Terry term; 0 leaves it out (Eurus's ablation).
        direct_weight: weight of the direct term, of flagged pairs only (UltraInteract's); 0 leaves it out.
        centring: weight of (r_chosen + r_rejected)², which keeps rewards near zero; 0.01 is usual.
        temperature: of K-way losses' soft labels: softmax(score / temperature).
        head: "last_token" (bias-free), "classifier" (transformers' own), or "auto": the checkpoint's, else last_token.
        adapter: LoRA, SoRA, or nothing to train the whole network; the head is always trained.
        learning_rate: peak learning rate; 1e-5 is usual for full tuning, 1e-4 for adapters.
        head_learning_rate: peak learning rate of the reward head (default: learning_rate).
    """

    data_task = "preference"

    def __init__(
        self,
        backbone: str,
        loss: Literal["bradley_terry", "infonca", "nca_kway"] = "bradley_terry",
        use_margin: bool = False,
        ranking_weight: float = 1.0,
        direct_weight: float = 1.0,
        centring: float = 0.0,
        temperature: float = 1.0,
        head: Literal["auto", "last_token", "classifier"] = "auto",
        adapter: AdapterConfig | None = None,
        **options: Any,
    ) -> None:
        arguments = {**locals(), **options}
        super().__init__(task="regression", backbone=backbone, adapter=adapter, **options)
        remember(self, arguments, RewardModule)
        if loss not in REWARD_LOSSES:
            raise ValueError(f"RewardModule: loss={loss!r}; allowed are {', '.join(map(repr, REWARD_LOSSES))}.")
        if temperature <= 0:
            raise ValueError(f"RewardModule: temperature={temperature}; it must be above 0.")
        if ranking_weight == 0 and direct_weight == 0:
            raise ValueError(
                "RewardModule: ranking_weight and direct_weight are both 0, so nothing is learnt; raise one."
            )
        self.loss, self.head = RewardLoss(ranking_weight, direct_weight, centring), head
        objective = RewardObjective(loss, self.loss, use_margin=use_margin, temperature=temperature)
        self.objective, self.rewards = objective, objective.rewards
        self.reward_values: dict[str, torch.Tensor] = {}

    def load_base(self) -> Backbone:
        """The backbone with a reward head, new where the checkpoint has none."""
        return load_reward_model(
            resolve_backbone(self.backbone),
            head=self.head,
            dtype=self.dtype_name,
            quantize=self.quantize,
            trust_remote_code=self.trust_remote_code,
        )

    def _build(self) -> None:
        super()._build()
        switch_dropout_off(self._network())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that the checkpoint holds the reward head, of this model's width."""
        saved = checkpoint["state_dict"]
        network = self._network()
        if isinstance(network, RewardModel):
            name, wanted = "network.regression_head.weight", tuple(network.regression_head.weight.shape)
            if name not in saved:
                raise ValueError(
                    f"RewardModule: the checkpoint holds no reward head ({name} is missing); without it there are no rewards. "
                    "Give a checkpoint that RewardModule wrote; if a callback filters checkpoints, take AdapterCheckpoint for it."
                )
            if tuple(saved[name].shape) != wanted:
                raise ValueError(
                    f"RewardModule: the checkpoint's reward head has shape {tuple(saved[name].shape)}, but {self.backbone!r} needs "
                    f"{wanted}. Load it with the backbone it was trained with."
                )
        super().on_load_checkpoint(checkpoint)

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, torch.Tensor]:
        """``reward`` and answer tokens ``length`` of each completion, (C,) each."""
        return {"reward": self.rewards(self._network(), batch), "length": batch["lengths"]}

    def _measures(self, labels: int, groups: tuple[str, ...], prefix: str) -> RewardMetrics:
        """Accuracy with its interval, margin, calibration, length correlation and signs."""
        return RewardMetrics()

    def _log_figures(self, prefix: str) -> None:
        """Log the figures and keep what pictures show; a reward that is constant is told, and refused in a test."""
        measures: RewardMetrics = getattr(self, prefix + "measures")
        constant, self.reward_values = measures.constant(), measures.drawn()  # under DDP the rank's own share
        super()._log_figures(prefix)
        if constant:
            message = (
                f"RewardModule: all {len(self.reward_values['rewards'])} completions have the same reward, so it orders nothing; "
                "lower the learning rate, and look at whether the head's gradient is zero."
            )
            if prefix == "test_":
                raise ValueError(message)
            rank_zero_warn(message)
