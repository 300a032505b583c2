"""Functions on tensors: differentiable, stateless, each with a plain-PyTorch twin in :mod:`fulgurite.kernels.reference`."""

from fulgurite.kernels.backend import current_backend, use_backend
from fulgurite.kernels.gated_lora import gated_lora_linear
from fulgurite.kernels.proximal import proximal_adamw_step_, soft_threshold_

__all__ = [
    "current_backend",
    "gated_lora_linear",
    "proximal_adamw_step_",
    "soft_threshold_",
    "use_backend",
]
