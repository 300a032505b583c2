"""The optimizers that are compared, on gates alone and in whole training steps.

``released rule`` is what SoRA's sparse_optimizer.py computes, tensor by tensor: the AdamW of older transformers (eps added to √v
before the bias correction) and three masked statements behind it. The others compute PyTorch's AdamW and the soft
threshold, more or less of it in one call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F

from fulgurite.optim import ProximalAdamW

__all__ = ["GATE_RULES", "ReleasedRule", "released_step"]

HYPER: dict[str, Any] = {"lr": 3e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
THRESHOLD = 2e-3


@torch.no_grad()
def released_step(p: torch.Tensor, grad: torch.Tensor, state: dict[str, Any], threshold: float, lr: float) -> None:
    """One step of the released rule on one tensor, without decay; ``state`` begins empty."""
    if not state:
        state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
    beta1, beta2 = HYPER["betas"]
    state["step"] += 1
    state["mean"].mul_(beta1).add_(grad, alpha=1 - beta1)
    state["square"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    rate = lr * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
    p.add_(torch.div(state["mean"], state["square"].sqrt().add_(HYPER["eps"])) * -rate)
    p[p > threshold] -= threshold
    p[p < -threshold] += threshold
    p[p.abs() < threshold] = 0.0


class ReleasedRule:
    """The released rule over a list of tensors."""

    def __init__(self, params: Iterable[torch.nn.Parameter], threshold: float = THRESHOLD) -> None:
        self.params = list(params)
        self.threshold = threshold
        self.state: list[dict[str, Any]] = [{} for _ in self.params]

    def step(self) -> None:
        """One update."""
        for p, state in zip(self.params, self.state, strict=True):
            if p.grad is not None:
                released_step(p, p.grad, state, self.threshold, HYPER["lr"])


def _adamw_then(shrink: Callable[[list[torch.nn.Parameter]], None], **options: Any) -> Callable[..., Any]:
    def build(params: list[torch.nn.Parameter]) -> Callable[[], None]:
        optimizer = torch.optim.AdamW(params, **HYPER, **options)

        def step() -> None:
            optimizer.step()
            shrink(params)

        return step

    return build


@torch.no_grad()
def _shrink_each(params: list[torch.nn.Parameter]) -> None:
    for p in params:
        p.copy_(F.softshrink(p, THRESHOLD))


@torch.no_grad()
def _shrink_together(params: list[torch.nn.Parameter]) -> None:
    inside = torch._foreach_clamp_min(torch._foreach_clamp_max(params, THRESHOLD), -THRESHOLD)
    torch._foreach_sub_(params, inside)


def _released(params: list[torch.nn.Parameter]) -> Callable[[], None]:
    return ReleasedRule(params).step


def _ours(params: list[torch.nn.Parameter]) -> Callable[[], None]:
    group = {"params": params, "threshold": THRESHOLD, "threshold_scaling": "constant", "prox": "soft"}
    return ProximalAdamW([group], **HYPER).step


# name -> what builds, from a list of parameters with gradients, the step over all of them.
GATE_RULES: dict[str, Callable[[list[torch.nn.Parameter]], Callable[[], None]]] = {
    "AdamW for loop, softshrink each": _adamw_then(_shrink_each, foreach=False),
    "AdamW foreach, foreach shrink": _adamw_then(_shrink_together, foreach=True),
    "AdamW fused, foreach shrink": _adamw_then(_shrink_together, fused=True),
    "released SoRA": _released,
    "fulgurite": _ours,
}
