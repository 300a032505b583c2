"""Functions on tensors: differentiable, stateless, each with a plain-PyTorch twin in :mod:`fulgurite.kernels.reference`."""

from fulgurite.kernels.backend import current_backend, use_backend
from fulgurite.kernels.gated_lora import gated_lora_linear
from fulgurite.kernels.log_probs import TokenScores, linear_cross_entropy, linear_log_probs, linear_token_scores
from fulgurite.kernels.proximal import proximal_adamw_step_, soft_threshold_
from fulgurite.kernels.sparse_delta import live_values, sparse_delta_embedding, sparse_delta_linear
from fulgurite.kernels.sparse_live import LiveWeights, sparse_adamw_step_, write_live_
from fulgurite.kernels.sparse_plan import SparsePlan, plan_sparse_delta

__all__ = [
    "LiveWeights",
    "SparsePlan",
    "TokenScores",
    "current_backend",
    "gated_lora_linear",
    "linear_cross_entropy",
    "linear_log_probs",
    "linear_token_scores",
    "live_values",
    "plan_sparse_delta",
    "proximal_adamw_step_",
    "soft_threshold_",
    "sparse_adamw_step_",
    "sparse_delta_embedding",
    "sparse_delta_linear",
    "use_backend",
    "write_live_",
]
