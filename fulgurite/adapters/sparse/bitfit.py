"""BitFit (arXiv 2106.10199): all biases of the base, or ``budget`` of them at random. It is APET over the bias vectors."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from fulgurite.adapters.config import APET, BitFit
from fulgurite.adapters.methods import Choice, Method, Put
from fulgurite.adapters.sparse.attaching import plan_sparse
from fulgurite.adapters.sparse.eligible import eligible_scalars, find_eligible

__all__ = ["BitFitMethod"]


class BitFitMethod(Method[BitFit]):
    """How BitFit is attached: the adapter's configuration is then the APET that trains the same biases."""

    takes_choice = True

    def plan(self, model: nn.Module, config: BitFit, train: tuple[str, ...], choice: Choice) -> Put:
        """See :func:`fulgurite.adapters.sparse.attaching.plan_sparse`.

        Raises:
            ValueError: a base without such biases, or fewer than the budget; targets that match other parameters.
        """
        return plan_sparse(model, _as_apet(model, config, train), train, choice)

    def sized(self, model: nn.Module, config: BitFit, budget: int, train: tuple[str, ...]) -> BitFit:
        """As many biases as the budget allows, at most all."""
        return replace(config, budget=min(budget, eligible_scalars(model, config.targets, train)))


def _as_apet(model: nn.Module, config: BitFit, train: tuple[str, ...]) -> APET:
    try:
        total = eligible_scalars(model, config.targets, train)
    except ValueError as error:
        raise ValueError(
            f"BitFit: {type(model).__name__} has no parameter that matches targets={config.targets!r}; models without biases "
            "(Llama) cannot be tuned so, take another method."
        ) from error
    found = [tensor.name for tensor in find_eligible(model, config.targets, train)]
    if others := [name for name in found if "bias" not in name.rpartition(".")[2]]:
        raise ValueError(
            f"BitFit: targets={config.targets!r} matches {len(others)} parameters that are no biases, the first is {others[0]}; "
            "BitFit trains biases: narrow targets, or take APET."
        )
    if config.budget is not None and config.budget > total:
        raise ValueError(
            f"BitFit: budget={config.budget:,} is above the {total:,} bias values of {type(model).__name__}."
        )
    return APET(budget=config.budget or total, seed=config.seed, targets=config.targets)
