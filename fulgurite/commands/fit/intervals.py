"""Options of the trainer that Lightning takes and that train nothing, or end in a division by zero."""

from __future__ import annotations

from typing import Any

__all__ = ["check_trainer_options"]

_AT_LEAST_ONE = ("val_check_interval", "check_val_every_n_epoch")
_TRAINS_NOTHING = ("max_steps", "max_epochs", "limit_train_batches")


def check_trainer_options(options: Any, verb: str) -> None:
    """Refuses what cannot be meant.

    Args:
        options: of the trainer, by name
        verb: fit, validate, test or predict

    Raises:
        ValueError: an interval of 0, a negative bound on gradients, or a fit that trains nothing
    """
    for name in _AT_LEAST_ONE:
        if _number(options.get(name)) and options[name] <= 0:
            raise ValueError(
                f"{verb}: --trainer.{name} {options[name]} was given; it must be above 0. To validate never, give "
                "--trainer.limit_val_batches 0"
            )
    bound = options.get("gradient_clip_val")
    if _number(bound) and bound < 0:
        raise ValueError(
            f"{verb}: --trainer.gradient_clip_val {bound} was given; gradients would not be clipped at all. Give a number above 0, "
            "or leave it out"
        )
    for name in _TRAINS_NOTHING:
        value = options.get(name)
        if verb == "fit" and _number(value) and value == 0:
            raise ValueError(
                f"fit: --trainer.{name} {value} was given, so that nothing would be trained; give a larger number, or measure the "
                "untrained model with `fulgurite validate`"
            )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
