"""The device that a command was asked to work on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["usable_device"]


def usable_device(verb: str, device: str | None) -> torch.device:
    """The device of this name, tried out.

    Args:
        verb: who asks, for the message.
        device: such as cpu, cuda or cuda:1; None takes a GPU if there is one.

    Raises:
        ValueError: no such device, or one that cannot be used.
    """
    import torch

    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ValueError(
            f"{verb}: device {name!r} cannot be used ({str(error).splitlines()[0]}); give cpu, or a device that is there"
        ) from error
    return place
