"""Language modelling: next-token cross-entropy of a causal model, or of an encoder-decoder, with any adapter or none."""

from __future__ import annotations

from typing import Literal

from fulgurite.adapters import AdapterConfig
from fulgurite.lightning_modules.checks.hyperparameters import remember
from fulgurite.lightning_modules.finetune import FinetuneModule

__all__ = ["SFTModule"]


class SFTModule(FinetuneModule):
    """Fine-tune a language model on text.

    Args:
        backbone: hub id, folder, or a playground name such as "playground".
        task: "causal_lm" or "seq2seq".
        adapter: LoRA, SoRA, APET, or nothing to train the whole network.
        learning_rate: peak learning rate.
        gate_learning_rate: peak learning rate of SoRA's gates (default: learning_rate).
        weight_decay: decoupled weight decay of matrices.
        warmup_ratio: share of the steps spent on linear warm-up.
        lr_schedule: decay after the warm-up.
        dtype: dtype of the base weights.
        from_scratch: draw random weights instead of loading the backbone's (pretraining).
        gradient_checkpointing: recompute activations in the backward: less memory, more time.
        kernels: backend of the kernels (default: leave the process's setting alone).
        trust_remote_code: run model code from the checkpoint's repository.
    """

    def __init__(
        self,
        backbone: str,
        task: Literal["causal_lm", "seq2seq"] = "causal_lm",
        adapter: AdapterConfig | None = None,
        learning_rate: float = 2e-4,
        gate_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.03,
        lr_schedule: Literal["linear", "cosine", "constant"] = "cosine",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        from_scratch: bool = False,
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
            gate_learning_rate=gate_learning_rate,
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            lr_schedule=lr_schedule,
            dtype=dtype,
            from_scratch=from_scratch,
            gradient_checkpointing=gradient_checkpointing,
            kernels=kernels,
            trust_remote_code=trust_remote_code,
        )
        remember(self, arguments, SFTModule)
