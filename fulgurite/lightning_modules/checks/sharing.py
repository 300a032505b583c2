"""Who else holds a module's parameters: wrappers, modules around it, and callbacks that average weights over time."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, callbacks
from lightning.pytorch.strategies import SingleDeviceStrategy

__all__ = ["averages_weights", "holds_parameters_alone"]

# Lightning 2.6 has the second one; both keep parameters of their own.
_AVERAGES = tuple(
    getattr(callbacks, name) for name in ("StochasticWeightAveraging", "WeightAveraging") if hasattr(callbacks, name)
)


def averages_weights(trainer: Any) -> bool:
    """Whether a callback averages the weights over time, whose ranks must then keep their places.

    Args:
        trainer: Lightning's.
    """
    return any(isinstance(callback, _AVERAGES) for callback in getattr(trainer, "callbacks", ()))


def holds_parameters_alone(module: LightningModule, trainer: Any) -> bool:
    """Whether replaced parameters are noticed by all who use them: no wrapper, no module around, no weight average.

    Args:
        module: whose parameters may be replaced.
        trainer: Lightning's.
    """
    alone = isinstance(trainer.strategy, SingleDeviceStrategy) and trainer.lightning_module is module
    return alone and not averages_weights(trainer)
