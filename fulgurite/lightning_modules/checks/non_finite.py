"""The first loss of a run that is NaN or infinite, noted on the device: reading every loss would wait for the GPU each time."""

from __future__ import annotations

import torch

__all__ = ["FirstNonFinite"]


class FirstNonFinite:
    """Remembers step, batch and value of the first loss that is NaN or infinite, until somebody looks."""

    def __init__(self) -> None:
        self._where: torch.Tensor | None = None
        self._value: torch.Tensor | None = None

    def note(self, loss: torch.Tensor, step: int, batch: int) -> None:
        """Take in one loss, without waiting for it.

        Args:
            loss: () on any device.
            step: optimizer steps done before it.
            batch: its number in the epoch.
        """
        value = loss.detach()
        if self._where is None or self._value is None or self._where.device != value.device:
            self._where = torch.full((2,), -1, dtype=torch.int64, device=value.device)
            self._value = torch.zeros_like(value)
        fresh = ~torch.isfinite(value) & (self._where[0] < 0)
        for place, number in enumerate((step, batch)):
            self._where[place].masked_fill_(fresh, number)
        self._value.copy_(torch.where(fresh, value, self._value))

    def look(self) -> tuple[int, int, float] | None:
        """(step, batch, value) of the first one, or None; a GPU is waited for. It is told once."""
        if self._where is None or self._value is None:
            return None
        step, batch = self._where.tolist()
        if step < 0:
            return None
        value, self._where, self._value = float(self._value), None, None
        return step, batch, value

    def refuse(self, owner: str, epoch: int) -> None:
        """Look, and stop the run where there was one.

        Args:
            owner: class name of the module, for the message.
            epoch: number of the current epoch, for the message.

        Raises:
            FloatingPointError: a loss was NaN or infinite.
        """
        found = self.look()
        if found is not None:
            step, batch, value = found
            raise FloatingPointError(
                f"{owner}: the loss is {value} at optimizer step {step}, batch {batch} of epoch {epoch}; training stops here. "
                "Lower the learning rate, use bf16 instead of fp16, or look at that batch."
            )
