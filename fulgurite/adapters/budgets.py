"""Equal budgets for a comparison of methods: the size at which a method trains as many parameters as it may.

APET (arXiv 2306.02320) is compared with LoRA, BitFit, bottleneck adapters and soft prompts at the same number of parameters.
"""

from __future__ import annotations

from torch import nn

from fulgurite.adapters.config import AdapterConfig
from fulgurite.adapters.methods import method_of

__all__ = ["within_budget"]


def within_budget(model: nn.Module, config: AdapterConfig, budget: int, train: tuple[str, ...] = ()) -> AdapterConfig:
    """The configuration with the largest rank, width, length or number of scalars that trains at most ``budget`` parameters.

    Args:
        model: the base, before attaching.
        config: LoRA, Bottleneck, SoftPrompt, BitFit or APET; everything but the size is kept.
        budget: parameters, those of trained heads not counted.
        train: regexes of the modules that are trained fully.

    Raises:
        ValueError: even the smallest size is above the budget (the message names it), or the method has no size.
    """
    sized = method_of(config).sized(model, config, budget, tuple(train))
    assert isinstance(sized, AdapterConfig)
    return sized
