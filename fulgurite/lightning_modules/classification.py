"""Classification and regression of single texts and pairs, with any adapter or none (full tuning)."""

from __future__ import annotations

from typing import Literal

from fulgurite.adapters import AdapterConfig
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule

__all__ = ["ClassificationModule"]


class ClassificationModule(FinetuneModule):
    """Fine-tune a backbone with a sequence-classification head.

    Args:
        backbone: hub id, folder, or a playground name such as "playground".
        task: "classification" or "regression" (one output, squared error).
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        learning_rate: peak learning rate.
        head_learning_rate: peak learning rate of the new head (default: learning_rate).
        gate_learning_rate: peak learning rate of SoRA's gates (default: learning_rate).
        weight_decay: decoupled weight decay of matrices.
        warmup_ratio: share of the steps spent on linear warm-up.
        lr_schedule: decay after the warm-up.
        num_labels: classes (default: what the data says).
        dtype: dtype of the base weights.
        gradient_checkpointing: recompute activations in the backward: less memory, more time.
        kernels: backend of the kernels (default: leave the process's setting alone).
        trust_remote_code: run model code from the checkpoint's repository.
    """

    def __init__(
        self,
        backbone: str,
        task: Literal["classification", "regression"] = "classification",
        adapter: AdapterConfig | None = None,
        learning_rate: float = 5e-4,
        head_learning_rate: float | None = None,
        gate_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.06,
        lr_schedule: Literal["linear", "cosine", "constant"] = "linear",
        num_labels: int | None = None,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        kernels: Literal["auto", "triton", "torch"] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        arguments = dict(locals())
        super().__init__(
            task=task,
            backbone=backbone,
            adapter=adapter,
            learning_rate=learning_rate,
            head_learning_rate=head_learning_rate,
            gate_learning_rate=gate_learning_rate,
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            lr_schedule=lr_schedule,
            num_labels=num_labels,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            kernels=kernels,
            trust_remote_code=trust_remote_code,
        )
        remember(self, arguments, ClassificationModule)
