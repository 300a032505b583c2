"""A training that goes on one step at a time: a trainer's own loop in a thread, which waits in front of each step to be told."""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Stepped"]


class Stepped:
    """A loop of training in a thread of its own.

    Args:
        train: runs the loop; what it trains calls :meth:`wait` in front of each step.
    """

    def __init__(self, train: Callable[[], None]) -> None:
        self._may, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._train = train

    def wait(self) -> None:
        """Called by the loop: the step before is over, and the next one is not begun before :meth:`step` is called."""
        self._stands.release()
        self._may.acquire()

    def start(self) -> None:
        """Run up to the first step."""
        threading.Thread(target=self._run, daemon=True).start()
        self._reached()

    def step(self) -> None:
        """Take one step, up to the beginning of the next one."""
        self._may.release()
        self._reached()

    def _reached(self) -> None:
        self._stands.acquire()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._train()
            self._error = RuntimeError("the training came to its end; give it more steps than are timed")
        except BaseException as error:  # whoever waits for the step has to be told
            self._error = error
        self._stands.release()
