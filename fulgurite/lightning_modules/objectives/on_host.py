"""What an objective has to know of a batch on the host is read before the batch moves to a GPU, in every run of a module."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.utilities.model_helpers import is_overridden

from fulgurite.lightning_modules.objectives.step import Objective

__all__ = ["read_on_host"]

_LATER_HOOKS = ("transfer_batch_to_device", "on_after_batch_transfer")


def read_on_host(module: Any, data: Any, objective: Objective, batch: Any) -> Any:
    """The batch with what ``objective.on_host`` reads; as it is where a hook of the user's comes later, which may change labels.

    Modules call it where Lightning is about to move the batch, not in the public hook ``on_before_batch_transfer``: Lightning
    warns of a module that has it beside a datamodule.

    Args:
        module: that trains.
        data: its datamodule, or None.
        objective: of the module.
        batch: on the CPU.
    """
    owners = [owner for owner in (module, data) if owner is not None]
    if not isinstance(batch, dict) or any(is_overridden(name, owner) for owner in owners for name in _LATER_HOOKS):
        return batch
    return objective.on_host(batch)
