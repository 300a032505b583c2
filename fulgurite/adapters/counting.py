"""How many scalars parameters stand for: a quantised weight keeps several in one byte, or beside others of its layer."""

from __future__ import annotations

import math

from torch import nn

__all__ = ["scalars", "scalars_in"]


def scalars(parameter: nn.Parameter) -> int:
    """Scalars of one parameter; of a packed one (bitsandbytes) those of the weight that it was made of.

    Args:
        parameter: of any model.
    """
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return parameter.numel() if shape is None else math.prod(shape)


def scalars_in(model: nn.Module, trained: bool = False) -> int:
    """Scalars of a model, shared parameters once; of a layer whose weight is packed into integers, inputs × outputs.

    Args:
        model: any.
        trained: those that require a gradient only.
    """
    sizes: dict[int, int] = {}
    for module in model.modules():
        sides = getattr(module, "in_features", None), getattr(module, "out_features", None)
        for p in module._parameters.values():
            if p is None or (trained and not p.requires_grad):
                continue
            packed = not p.dtype.is_floating_point and p.dim() > 0 and all(isinstance(side, int) for side in sides)
            sizes[id(p)] = math.prod(side for side in sides if side) if packed else scalars(p)
    return sum(sizes.values())
