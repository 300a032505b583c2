"""BitFit (arXiv 2106.10199) as APET over the bias vectors."""

from __future__ import annotations

from torch import nn

from fulgurite.adapters.config import APET, BitFit
from fulgurite.adapters.sparse.eligible import eligible_scalars

__all__ = ["bitfit_as_apet"]


def bitfit_as_apet(model: nn.Module, config: BitFit, train: tuple[str, ...] = ()) -> APET:
    """The APET configuration that trains these biases.

    Raises:
        ValueError: a base without such biases, or fewer than the budget.
    """
    try:
        total = eligible_scalars(model, config.targets, train)
    except ValueError as error:
        raise ValueError(
            f"BitFit: {type(model).__name__} has no parameter that matches targets={config.targets!r}; models without biases "
            "(Llama) cannot be tuned so, take another method."
        ) from error
    if config.budget is not None and config.budget > total:
        raise ValueError(
            f"BitFit: budget={config.budget:,} is above the {total:,} bias values of {type(model).__name__}."
        )
    return APET(budget=config.budget or total, seed=config.seed, targets=config.targets)
