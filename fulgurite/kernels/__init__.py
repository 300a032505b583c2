"""Functions on tensors: differentiable, stateless, each with a plain-PyTorch twin in :mod:`fulgurite.kernels.reference`."""

from fulgurite.kernels.backend import current_backend, use_backend
from fulgurite.kernels.fused_log_probs import fused_log_probs
from fulgurite.kernels.fused_scores import FusedTokenScores, fused_logits, fused_token_scores
from fulgurite.kernels.gated_lora import gated_lora_linear
from fulgurite.kernels.log_probs import TokenScores, linear_cross_entropy, linear_log_probs, linear_token_scores
from fulgurite.kernels.proximal import proximal_adamw_step_, soft_threshold_

__all__ = [
    "FusedTokenScores",
    "TokenScores",
    "current_backend",
    "fused_log_probs",
    "fused_logits",
    "fused_token_scores",
    "gated_lora_linear",
    "linear_cross_entropy",
    "linear_log_probs",
    "linear_token_scores",
    "proximal_adamw_step_",
    "soft_threshold_",
    "use_backend",
]
