"""The factors of a low-rank branch in the form that the kernels multiply with."""

from __future__ import annotations

import torch

__all__ = ["check_parts", "scaled_b"]


def scaled_b(lora_b: torch.Tensor, gate: torch.Tensor | None, scaling: float, dtype: torch.dtype) -> torch.Tensor:
    """scaling · g ⊙ B, multiplied in float32 or wider and rounded once.

    Args:
        lora_b: B, (N, r).
        gate: g, (r,), or None for plain LoRA.
        scaling: factor of the branch.
        dtype: of the result, (N, r).
    """
    wide = torch.promote_types(lora_b.dtype, torch.float32)
    scaled = lora_b.to(wide) * scaling if gate is None else lora_b.to(wide) * (gate.to(wide) * scaling)
    return scaled.to(dtype)


def check_parts(
    function: str, first: str, device: torch.device, weight: torch.Tensor, **parts: torch.Tensor | None
) -> None:
    """Raises unless bias and branch fit the weight, (N, K), and all tensors are on one device.

    Args:
        function: the public function, for the message.
        first: its tensor on ``device``, with which the others are compared.
        device: where all have to be.
        weight: (N, K).
        parts: ``bias``, ``lora_a``, ``gate`` and ``lora_b``, whose shapes are checked, and more, whose devices are; or None.

    Raises:
        ValueError: what does not fit, all of it named.
    """
    n, k = weight.shape
    lora_a = parts.get("lora_a")
    rank = lora_a.shape[0] if lora_a is not None and lora_a.dim() == 2 else -1
    shapes = {"bias": (n,), "lora_a": (rank, k), "gate": (rank,), "lora_b": (n, rank)}
    given = {name: tensor for name, tensor in {"weight": weight, **parts}.items() if tensor is not None}
    wrong = [
        f"{name} {tuple(given[name].shape)}, want {want}"
        for name, want in shapes.items()
        if name in given and tuple(given[name].shape) != want
    ]
    if wrong:
        raise ValueError(f"{function}: with weight {(n, k)} and rank {rank}: {'; '.join(wrong)}.")
    elsewhere = [f"{name} on {tensor.device}" for name, tensor in given.items() if tensor.device != device]
    if elsewhere:
        raise ValueError(f"{function}: {first} is on {device}, but {', '.join(elsewhere)}; move them to one device.")
