"""Requests that arrive one by one are answered together: whoever comes first waits some milliseconds for the others.

While one batch is computed the next one gathers. There is no thread and no queue that outlives a call: each request waits for one
lock, and whoever gets it takes all that are waiting along. So a request that is cancelled takes nobody with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import anyio
from anyio.to_thread import run_sync

__all__ = ["Batches"]

Asked = TypeVar("Asked")
Told = TypeVar("Told")


class _Ticket(Generic[Asked, Told]):
    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self.told: Told | BaseException | None = None


class Batches(Generic[Asked, Told]):
    """Gathers requests.

    Args:
        answer: gets the requests of a batch, in a thread, one batch at a time; gives an answer or an exception for each.
        seconds: how long the first one waits for others.
    """

    def __init__(self, answer: Callable[[Sequence[Asked]], Sequence[Told | Exception]], seconds: float = 0.02) -> None:
        self._answer, self._seconds = answer, seconds
        self._lock = anyio.Lock()
        self._waiting: list[_Ticket[Asked, Told]] = []

    async def ask(self, asked: Asked) -> Told:
        """The answer to a request.

        Args:
            asked: the request.

        Raises:
            Exception: what was given in place of an answer, or what ended the whole batch.
        """
        ticket: _Ticket[Asked, Told] = _Ticket(asked)
        self._waiting.append(ticket)
        try:
            async with self._lock:
                if ticket.told is None:
                    await anyio.sleep(self._seconds)
                    await self._answer_all()
        finally:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
        told = ticket.told
        assert told is not None
        if isinstance(told, BaseException):
            raise told
        return told

    async def _answer_all(self) -> None:
        batch, self._waiting = self._waiting, []
        try:
            found: Sequence[Told | Exception] = await run_sync(self._answer, [ticket.asked for ticket in batch])
        except Exception as error:
            found = [error] * len(batch)
        except BaseException:  # cancelled before it began: the others ask again
            self._waiting = batch + self._waiting
            raise
        for ticket, told in zip(batch, found, strict=True):
            ticket.told = told
