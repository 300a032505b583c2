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

from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from fulgurite.adapters import AdapterConfig
from fulgurite.lightning_modules.finetune import FinetuneModule
from fulgurite.lightning_modules.fuser_stages import Stages, average_gradients
from fulgurite.lightning_modules.fusion_metrics import FusionMetrics
from fulgurite.lightning_modules.hyperparameters import remember
from fulgurite.lightning_modules.objectives import Batch, Step
from fulgurite.optim import ProximalAdamW

__all__ = ["UltraFuserModule"]


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
        weight_decay: decoupled weight decay of matrices.
        warmup_ratio: share of each stage's steps spent on linear warm-up.
        lr_schedule: decay after the warm-up, to the end of each stage.
        dtype: dtype of the specialists' weights; the gate is float32.
        gradient_checkpointing: recompute the specialists' activations in stage 2: less memory, more time.
        kernels: backend of the kernels (default: leave the process's setting alone).
        trust_remote_code: run model code from the checkpoints' repositories.
    """

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
        weight_decay: float = 0.0,
        warmup_ratio: float = 0.03,
        lr_schedule: Literal["linear", "cosine", "constant"] = "cosine",
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        gradient_checkpointing: bool = False,
        kernels: Literal["auto", "triton", "torch"] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        arguments = dict(locals())
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
            weight_decay=weight_decay,
            warmup_ratio=warmup_ratio,
            lr_schedule=lr_schedule,
            dtype=dtype,
            gradient_checkpointing=gradient_checkpointing,
            kernels=kernels,
            trust_remote_code=trust_remote_code,
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
            weight_decay,
            warmup_ratio,
            lr_schedule,
        )
        self.chat_templates: list[str] | None = None
        self.objective = self._fused_step
        self._joined: list[nn.Parameter] = []
