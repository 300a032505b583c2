"""Functions on tensors: differentiable, stateless, each with a plain-PyTorch twin in :mod:`fulgurite.kernels.reference`."""

from fulgurite.kernels.backend import current_backend, use_backend
from fulgurite.kernels.fusion.fused_log_probs import fused_log_probs
from fulgurite.kernels.fusion.scores import FusedTokenScores, fused_logits, fused_token_scores
from fulgurite.kernels.log_probs.linear import TokenScores, linear_cross_entropy, linear_log_probs, linear_token_scores
from fulgurite.kernels.low_rank.gated_lora import gated_lora_linear
from fulgurite.kernels.sparse.delta import live_values, sparse_delta_embedding, sparse_delta_linear
from fulgurite.kernels.sparse.live import write_live_
from fulgurite.kernels.sparse.plan import SparsePlan, plan_sparse_delta
from fulgurite.kernels.steps.proximal import proximal_adamw_step_, soft_threshold_

__all__ = [
    "FusedTokenScores",
    "SparsePlan",
    "TokenScores",
    "current_backend",
    "fused_log_probs",
    "fused_logits",
    "fused_token_scores",
    "gated_lora_linear",
    "linear_cross_entropy",
    "linear_log_probs",
    "linear_token_scores",
    "live_values",
    "plan_sparse_delta",
    "proximal_adamw_step_",
    "soft_threshold_",
    "sparse_delta_embedding",
    "sparse_delta_linear",
    "use_backend",
    "write_live_",
]
