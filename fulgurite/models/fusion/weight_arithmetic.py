"""Several models of one architecture made into one by arithmetic on their weights: baselines of fusion.

    average_weights     θ = Σ_e c_e θ_e,  Σ c_e = 1                    model soups, https://arxiv.org/abs/2203.05482
    task_arithmetic     θ = θ_base + λ Σ_e (θ_e − θ_base)              task vectors, https://arxiv.org/abs/2212.04089

Both are computed in float64, tensor by tensor, and rounded once to the first model's dtype. Adapters are merged into
copies of their base first. Integer tensors (buffers such as positions) must be the same everywhere and are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

__all__ = ["average_weights", "task_arithmetic"]

Weights = Mapping[str, torch.Tensor]


def average_weights(states: Sequence[Weights], shares: Sequence[float] | None = None) -> dict[str, torch.Tensor]:
    """The mean of state dicts.

    Args:
        states: at least one, with the same keys and shapes.
        shares: of each; they are divided by their sum. None: equal ones.

    Raises:
        ValueError: no model, keys or shapes that differ, shares that fit neither number nor sign.
    """
    _check("average_weights", states)
    shares = [1.0] * len(states) if shares is None else list(shares)
    if len(shares) != len(states) or sum(shares) <= 0:
        raise ValueError(
            f"average_weights: shares {shares} for {len(states)} models; give each model a share, with a sum above 0"
        )
    whole = sum(shares)
    return {
        key: _rounded(sum(s / whole * state[key].double() for s, state in zip(shares, states, strict=True)), value)
        for key, value in states[0].items()
    }


def task_arithmetic(base: Weights, states: Sequence[Weights], coefficient: float = 1.0) -> dict[str, torch.Tensor]:
    """The base with the sum of what each model learnt beyond it.

    Args:
        base: what the models were tuned from.
        states: at least one, with the base's keys and shapes.
        coefficient: λ; UltraFuser's table has 1, the method's authors recommend 0.3 to 0.5.

    Raises:
        ValueError: no model, keys or shapes that differ.
    """
    _check("task_arithmetic", [base, *states])
    if not states:
        raise ValueError("task_arithmetic: no model was given; give at least one")
    return {
        key: _rounded(value.double() + coefficient * sum(s[key].double() - value.double() for s in states), value)
        for key, value in base.items()
    }


def _check(function: str, states: Sequence[Weights]) -> None:
    if not states:
        raise ValueError(f"{function}: no model was given; give at least one")
    first = states[0]
    for number, state in enumerate(states[1:], 1):
        if foreign := sorted(set(first) ^ set(state)):
            raise ValueError(
                f"{function}: model {number} and the first differ in {len(foreign)} tensors, such as {foreign[0]!r}; only models "
                "of one architecture can be merged"
            )
        for key, value in first.items():
            if value.shape != state[key].shape:
                raise ValueError(
                    f"{function}: {key} is {tuple(value.shape)} in the first and {tuple(state[key].shape)} in model {number}; "
                    "only models of one architecture and vocabulary can be merged"
                )
            if not value.is_floating_point() and not torch.equal(value, state[key]):
                raise ValueError(
                    f"{function}: {key} holds whole numbers that differ between model 0 and model {number} and cannot be averaged; "
                    "give models of one architecture and vocabulary"
                )


def _rounded(mixed: torch.Tensor | float, like: torch.Tensor) -> torch.Tensor:
    if not like.is_floating_point():
        return like.clone()
    assert isinstance(mixed, torch.Tensor)
    return mixed.to(like.dtype)
