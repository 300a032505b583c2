"""Rewards by a server: vLLM's `/classify` with messages, the one published protocol in which the server lays its own chat template.

Each answer is one request, several at a time. `use_activation` false asks for the raw number of the head; a server that does not
know the field gives σ of it, which orders the same. What the server refuses, such as a text that is too long, has no reward.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fulgurite.evaluation.selection.candidates import Found
from fulgurite.evaluation.selection.scorers import Asked, as_read
from fulgurite.generation.server.backend import ServerError
from fulgurite.generation.server.budget import Budget
from fulgurite.generation.server.client import FatalError, RefusedError, TroubleError, open_client, post

__all__ = ["EndpointReward"]


class EndpointReward:
    """A reward model behind an address.

    Args:
        address: of the server, to which /classify is added, such as http://127.0.0.1:8000.
        model: the name by which the server knows it.
        concurrency: requests at a time.
        timeout: seconds of one attempt.
        retries: how often a request is repeated after 408, 409, 429, 5xx, a time-out or a broken connection.

    Raises:
        ValueError: concurrency below 1.
    """

    def __init__(
        self, address: str, model: str, concurrency: int = 8, timeout: float = 120.0, retries: int = 4
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"EndpointReward: concurrency={concurrency}; it must be at least 1")
        self._address, self._model, self._concurrency = address, model, concurrency
        self._timeout, self._retries = timeout, retries
        self.name = f"{model} at {address.rpartition('@')[2]}"
        self.omitted: Counter[str] = Counter()
        self.example: str | None = None

    def identity(self) -> dict[str, Any]:
        """Address, without a password, and model."""
        return {"server": self._address.rpartition("@")[2], "model": self._model}

    def score(self, asked: Sequence[Asked]) -> Found:
        """As Scorer.score.

        Raises:
            ServerError: the server is gone, refuses all requests, or answers something else than one number.
        """
        with ThreadPoolExecutor(1) as thread:  # the caller's thread may have an event loop, as in a notebook
            return thread.submit(asyncio.run, self._all(asked)).result()

    async def _all(self, asked: Sequence[Asked]) -> Found:
        key = os.environ.get("OPENAI_API_KEY") or "none"
        slots = asyncio.Semaphore(self._concurrency)
        async with open_client(self._address, key, self._timeout, self._retries, Budget(None, None)) as client:

            async def one(each: Asked) -> float | None:
                async with slots:
                    return await self._reward(client, each)

            tasks = [asyncio.ensure_future(one(each)) for each in asked]
            try:
                return list(await asyncio.gather(*tasks))
            finally:
                for task in tasks:
                    task.cancel()

    async def _reward(self, client: Any, asked: Asked) -> float | None:
        turns = as_read(asked.turns, asked.text, True, asked.where).turns
        body = {
            "model": self._model,
            "messages": [{"role": turn.role, "content": turn.content} for turn in turns],
            "add_generation_prompt": False,
            "use_activation": False,
        }
        try:
            content = await post(client, "/classify", body)
        except RefusedError as error:
            self.omitted[f"refused by the server ({error})"] += 1
            return None
        except (TroubleError, FatalError) as error:
            raise ServerError(
                f"{asked.where}: no reward from {self.name}: {error}; run the same command again to go on"
            ) from error
        try:
            (found,) = json.loads(content)["data"]
            (reward,) = found["probs"]
            return float(reward)
        except (ValueError, KeyError, TypeError) as error:
            raise ServerError(
                f"{asked.where}: {self.name} answers {content[:120]!r}; one number is needed, as a reward model with one label "
                "gives it to /classify"
            ) from error
