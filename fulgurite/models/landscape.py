"""The line or plane through the weights of two or three models of one architecture, for the loss along it.

    θ(a, b) = (1 − a − b) θ0 + a θ1 + b θ2

At (0, 0), (1, 0) and (0, 1) the weights are those of the models, bit for bit; without θ2 it is the line θ0 + a (θ1 − θ0) of the
analyses of linear mode connectivity (arXiv 1912.05671).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

__all__ = ["WeightPlane"]


class WeightPlane:
    """Puts a module at points of the plane, and back at its own weights at the end of a `with` block.

    Copies are held of those Parameters alone that differ between the models.

    Args:
        module: any, with the weights θ0; it is changed in place.
        first: θ1, tensors by the module's names of Parameters; others are left out.
        second: θ2, or None for a line.

    Raises:
        ValueError: a Parameter that is missing, of another shape, or not finite; weights that are all alike.
    """

    def __init__(
        self, module: nn.Module, first: Mapping[str, torch.Tensor], second: Mapping[str, torch.Tensor] | None = None
    ) -> None:
        self._corners: list[tuple[nn.Parameter, list[torch.Tensor]]] = []
        for name, parameter in module.named_parameters():
            others = [_like(parameter, name, given) for given in (first, second) if given is not None]
            own = parameter.detach()
            if all(torch.equal(own, other) for other in others):
                continue
            copies = [tensor.clone() for tensor in (own, *others)]
            if not all(bool(tensor.isfinite().all()) for tensor in copies):
                raise ValueError(f"WeightPlane: {name} holds NaN or infinity in one of the models; give finite weights")
            self._corners.append((parameter, copies))
        if not self._corners:
            raise ValueError("WeightPlane: the models have the same weights; give models that differ")

    def __enter__(self) -> WeightPlane:
        """The plane; the module stands at θ0."""
        return self

    def __exit__(self, *error: object) -> None:
        """Puts the module back at θ0, bit for bit."""
        self.go(0.0, 0.0)

    @property
    def scalars(self) -> int:
        """How many weights differ between the models."""
        return sum(parameter.numel() for parameter, _ in self._corners)

    @torch.no_grad()
    def go(self, a: float, b: float = 0.0) -> None:
        """Put the module at θ(a, b). Sums are computed in float32 or wider, and rounded once.

        Args:
            a: towards θ1.
            b: towards θ2; 0 on a line.
        """
        weights = (1.0 - a - b, a, b)
        for parameter, corners in self._corners:
            wide = torch.promote_types(parameter.dtype, torch.float32)
            total = torch.zeros_like(parameter, dtype=wide)
            for weight, corner in zip(weights, corners, strict=False):
                if weight != 0.0:
                    total += weight * corner.to(wide)
            parameter.copy_(total)


def _like(parameter: nn.Parameter, name: str, given: Mapping[str, torch.Tensor]) -> torch.Tensor:
    if name not in given:
        raise ValueError(f"WeightPlane: a model has no {name}; give models of one architecture")
    tensor = given[name].detach().to(parameter.device, parameter.dtype)
    if tensor.shape != parameter.shape:
        raise ValueError(
            f"WeightPlane: {name} has the shapes {tuple(parameter.shape)} and {tuple(tensor.shape)}; give models of one "
            "architecture"
        )
    return tensor
