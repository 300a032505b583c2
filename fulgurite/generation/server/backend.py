"""Answers from any server that speaks OpenAI's protocol: vLLM, `transformers serve`, llama.cpp, OpenAI itself.

Requests run in an event loop in a thread of their own; samples are handed over as they come. Each wanted sample comes out once: as
an answer, or with finish "error" and what went wrong. Where the run cannot go on (wrong key, unknown model, used-up budget, many
failures in a row) the samples that are there come first, then a ServerError says how many are missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fulgurite.generation.identity import folder_hash
from fulgurite.generation.protocol import Prompt, Request, Sample, SamplingSettings, jobs_of
from fulgurite.generation.server.budget import Budget
from fulgurite.generation.server.client import FatalError, RefusedError, TroubleError, open_client, post
from fulgurite.generation.server.messages import (
    Answer,
    BrokenAnswerError,
    Call,
    Fields,
    answers_in,
    shares_of,
    uses_chat,
)
from fulgurite.generation.server.stop_texts import begun_in_prompt

__all__ = ["ServerBackend", "ServerError"]

_ENDPOINTS = ("auto", "chat", "completions")
FIRST_WAIT = 0.5  # seconds before a request is repeated whose answer was broken; twice as long each time
_LONG, _WARM = 40, 0.5  # letters and temperature from which equal samples are no chance


class ServerError(RuntimeError):
    """The run cannot go on."""


class ServerBackend:
    """A server of a language model.

    Log-probabilities of servers are those of the model before temperature and truncation (vLLM's default), so they are a sample's
    `model_log_probs`; `log_probs` only where the settings change nothing about the model's distribution.

    Args:
        model: the name that the server knows.
        base_url: its address up to /v1, such as "http://127.0.0.1:8000/v1"; None takes the environment's OPENAI_BASE_URL.
        api_key: None takes the environment's OPENAI_API_KEY, or none where that isn't set. It is never written anywhere.
        endpoint: "auto" sends turns to the chat endpoint, texts and token ids to the completions endpoint; "chat" sends texts as a
            user's turn; "completions".
        concurrency: requests at a time.
        timeout: seconds of one attempt, from sending to the last byte.
        retries: how often a request is repeated after 408, 409, 429, 5xx, a time-out, a broken connection or broken JSON.
        give_up: failed requests in a row after which the run stops.
        max_requests: HTTP requests of one call of `sample` at most, repetitions included; None: any number.
        max_tokens: tokens of prompts and answers of one call at most; None: any number.
        group: ask for all samples of a prompt in one request. They then share its seed; without it each has its own.
        log_probs: ask for log-probabilities.
        adapter: the name of a LoRA adapter that the server holds; it is asked for instead of the model.
        adapter_path: a folder of that adapter, which vLLM is asked to load by that name first (it must allow that).
        revision: what is known of the served model's revision, for the record; a server does not tell.
        extra: further fields of each request, as the server takes them.

    Raises:
        ValueError: no address, or an option out of its range.
    """

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        api_key: str | None = None,
        endpoint: str = "auto",
        concurrency: int = 8,
        timeout: float = 120.0,
        retries: int = 4,
        give_up: int = 10,
        max_requests: int | None = None,
        max_tokens: int | None = None,
        group: bool = True,
        log_probs: bool = True,
        adapter: str | None = None,
        adapter_path: str | None = None,
        revision: str | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        base_url = base_url or os.environ.get("OPENAI_BASE_URL")
        if not base_url:
            raise ValueError(
                "ServerBackend: no base_url was given and OPENAI_BASE_URL is not set; give the server's address, such as "
                "http://127.0.0.1:8000/v1"
            )
        rules = (
            ("endpoint", endpoint in _ENDPOINTS, f"one of {', '.join(_ENDPOINTS)}"),
            ("concurrency", concurrency >= 1, "1 and more"),
            ("timeout", timeout > 0, "above 0 seconds"),
            ("retries", retries >= 0, "0 and more"),
            ("give_up", give_up >= 1, "1 and more"),
            ("adapter_path", adapter_path is None or adapter is not None, "a folder together with adapter, its name"),
        )
        for name, fine, allowed in rules:
            if not fine:
                raise ValueError(f"ServerBackend: {name}={locals()[name]!r}; allowed is {allowed}; correct it")
        Budget(max_requests, max_tokens)  # refuses limits below 1 now, not at the first call
        self.model, self.base_url, self.endpoint = model, base_url, endpoint
        self.concurrency, self.timeout, self.retries, self.give_up = concurrency, timeout, retries, give_up
        self.max_requests, self.max_tokens, self.group, self.log_probs = max_requests, max_tokens, group, log_probs
        self.adapter, self.adapter_path, self.revision = adapter, adapter_path, revision
        self.extra = dict(extra or {})
        self._key = api_key or os.environ.get("OPENAI_API_KEY") or "none"
        self._refused: set[str] = set()
        self._careful = False

    def identity(self) -> dict[str, Any]:
        """Backend, address (without a password), model, revision, adapter with the hash of its folder, endpoint, further fields."""
        address = urlsplit(self.base_url)
        return {
            "backend": "server",
            "server": f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}",
            "model": self.model,
            "revision": self.revision,
            "adapter": self.adapter,
            "adapter_hash": None if self.adapter_path is None else folder_hash(Path(self.adapter_path)),
            "endpoint": self.endpoint,
            "extra": self.extra,
        }

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        """The wanted samples of each request, in the order in which they come; see Backend.sample.

        Raises:
            ValueError: a prompt that the endpoint does not take.
            ServerError: after the samples that are there, where the run cannot go on.
        """
        settings = settings or SamplingSettings()
        jobs = jobs_of("ServerBackend", requests, n, settings)
        for job in jobs:
            uses_chat(job.prompt, self.endpoint)
        calls: deque[Call] = deque()
        for job in jobs:
            groups = [tuple(job.seeds)] if self.group and "n" not in self._refused else [(i,) for i in job.seeds]
            calls.extend(Call(job.place, job.prompt, part, job.seeds[part[0]]) for part in groups if part)
        seeds = {job.place: job.seeds for job in jobs}
        fields = Fields(self.adapter or self.model, settings, self.log_probs, self.extra)
        fields.refused, fields.careful = self._refused, self._careful  # what an earlier call has learned of the server
        made_with = {**self.identity(), "settings": settings.to_dict()}
        return _Run(self, calls, seeds, fields, made_with).samples()

    def open(self, budget: Budget) -> Any:
        """A client for one run."""
        return open_client(self.base_url, self._key, self.timeout, self.retries, budget)


class _Run:
    """One call of sample: the queue of requests, and what has come back."""

    def __init__(
        self,
        backend: ServerBackend,
        calls: deque[Call],
        seeds: Mapping[int, Mapping[int, int]],
        fields: Fields,
        made_with: Mapping[str, Any],
    ) -> None:
        self.backend, self.calls, self.seeds, self.fields, self.made_with = backend, calls, seeds, fields, made_with
        self.budget = Budget(backend.max_requests, backend.max_tokens)
        self.missing = sum(len(call.indices) for call in calls)
        self.reason: str | None = None
        self.failures = 0
        self.texts: dict[int, list[str]] = {}
        self.found: queue.Queue[Sample | BaseException | None] = queue.Queue()

    def samples(self) -> Iterator[Sample]:
        """Samples as they come; the thread ends with the iterator."""
        if not self.calls:
            return
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._all())
        thread = threading.Thread(target=self._thread, args=(loop, task), daemon=True)
        thread.start()
        ended = False
        try:
            while (item := self.found.get()) is not None:
                if isinstance(item, BaseException):
                    raise item
                self.missing -= 1
                self._note(item)
                yield item
            ended = True
        finally:
            if not ended:
                with contextlib.suppress(RuntimeError):  # the loop has ended in the meantime
                    loop.call_soon_threadsafe(task.cancel)
            thread.join()
        self._warn_if_all_equal()
        if self.reason is not None:
            raise ServerError(
                f"ServerBackend: {self.reason}; {self.missing} samples are missing, the others were given out"
            )

    def _thread(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        try:
            loop.run_until_complete(task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.found.put(error)
        finally:
            self.found.put(None)
            loop.close()

    async def _all(self) -> None:
        client = self.backend.open(self.budget)
        try:
            if self.backend.adapter_path is not None:
                await self._load_adapter(client)
            if self.reason is None:
                self._changed = asyncio.Condition()
                workers = min(self.backend.concurrency, self.missing)
                await asyncio.gather(*(self._worker(client) for _ in range(workers)))
        finally:
            await client.close()

    async def _load_adapter(self, client: Any) -> None:
        path = str(self.backend.adapter_path)
        try:
            await post(client, "/load_lora_adapter", {"lora_name": self.backend.adapter, "lora_path": path})
        except RefusedError as error:
            if "already" not in str(error):
                self.reason = f"the server does not load the adapter {self.backend.adapter!r} from {path} ({error})"
        except (TroubleError, FatalError) as error:
            self.reason = f"the server does not load the adapter {self.backend.adapter!r} from {path} ({error})"

    async def _worker(self, client: Any) -> None:
        while (call := await self._next()) is not None:
            held, used = self.fields.most_tokens(call), None
            try:
                used = await self._answer(client, call)
            finally:
                async with self._changed:
                    self.budget.end(held, used)
                    self._changed.notify_all()

    async def _next(self) -> Call | None:
        """The next request as soon as the budget has room for it; None if there is none, or the run cannot go on."""
        async with self._changed:
            while self.reason is None:
                if not self.calls:
                    if not self.budget.waiting:  # a request under way may still put others into the queue
                        return None
                    await self._changed.wait()
                    continue
                tokens = self.fields.most_tokens(self.calls[0])
                why = self.budget.why_not(tokens)
                if why is None:
                    self.budget.begin(tokens)
                    return self.calls.popleft()
                if not self.budget.waiting:
                    self.reason = why
                    self._changed.notify_all()
                    return None
                await self._changed.wait()
        return None

    async def _answer(self, client: Any, call: Call) -> int | None:
        """Sends one request and hands its samples over: the tokens that it used."""
        chat = uses_chat(call.prompt, self.backend.endpoint)
        path = "/chat/completions" if chat else "/completions"
        broken = spent = 0
        while True:
            body = self.fields.body(call, chat)
            if "n" in self.fields.refused and len(call.indices) > 1:
                self._split(call, 0)
                return 0
            try:
                content = await post(client, path, body)
                answers, used = answers_in(content, chat, len(call.indices), self.fields.settings.stop)
                spent += 0 if used is None else used.total
                if not self._cut_short(call, chat, answers, body.get("stop", ())):
                    break
            except BrokenAnswerError as error:
                broken += 1
                if broken > self.backend.retries:
                    return self._failed(call, str(error))
                await asyncio.sleep(min(FIRST_WAIT * 2 ** (broken - 1), 8.0))
            except RefusedError as error:
                left = self.fields.refuse(str(error), body)
                if left is None:
                    continue
                if left:
                    self.reason = (
                        f"the server refuses {left}={body[left]!r} ({error}), without which the answers would be others"
                    )
                    return 0
                return self._failed(call, str(error), 0)
            except TroubleError as error:
                return self._failed(call, str(error))
            except FatalError as error:
                self.reason = str(error)
                return 0
        self.failures = 0
        for index, answer, usage in zip(call.indices, answers, shares_of(used, len(answers)), strict=False):
            self._give(call, index, answer, usage)
        if len(answers) < len(call.indices):  # `n` was taken no notice of
            self.fields.refused.add("n")
            self._split(call, len(answers))
        return None if used is None else spent

    def _cut_short(self, call: Call, chat: bool, answers: list[Answer], stops: Sequence[str]) -> bool:
        """Whether the server has ended an answer at a stop text that begins in the prompt; it is told so once."""
        found = any(
            answer.finish == "stop" and answer.stop is None and begun_in_prompt(call.prompt, chat, answer.text, stops)
            for answer in answers
        )
        if found and not self.fields.careful:
            self.fields.careful = self.backend._careful = True
            warnings.warn(
                "ServerBackend: an answer may have been ended by a stop text that begins in the prompt, as transformers' server "
                "does it; it is asked for again, and such stop texts are not sent any more: answers are cut here, and may cost "
                "more tokens",
                stacklevel=1,
            )
        return found

    def _split(self, call: Call, given: int) -> None:
        """Puts the samples that are still missing back into the queue, one a request."""
        for index in reversed(call.indices[given:]):
            self.calls.appendleft(Call(call.place, call.prompt, (index,), self.seeds[call.place][index]))

    def _give(self, call: Call, index: int, answer: Answer, usage: tuple[int, int] | None) -> None:
        settings, drawn = self.fields.settings, answer.log_probs
        if drawn is not None and not settings.plain:
            drawn = (0.0,) * len(drawn) if settings.temperature == 0 else None
        self.found.put(
            Sample(
                call.place,
                index,
                answer.text,
                answer.finish,
                answer.stop,
                self.fields.seed(call),
                answer.token_ids,
                drawn,
                answer.log_probs,
                made_with=self.made_with,
                counted=answer.counted,
                prompt_tokens=answer.prompt_tokens,
                usage=usage,
            )
        )

    def _failed(self, call: Call, error: str, used: int | None = None) -> int | None:
        self.failures += 1
        for index in call.indices:
            seed = self.fields.seed(call)
            self.found.put(Sample(call.place, index, "", "error", seed=seed, error=error, made_with=self.made_with))
        if self.failures >= self.backend.give_up and self.reason is None:
            self.reason = f"{self.failures} requests in a row failed, the last one with: {error}"
        return used

    def _note(self, sample: Sample) -> None:
        if sample.finish != "error" and len(sample.text) >= _LONG:
            self.texts.setdefault(sample.prompt, []).append(sample.text)

    def _warn_if_all_equal(self) -> None:
        """Some servers decode greedily whatever is asked for (transformers' own, unless the model's settings sample)."""
        several = [texts for texts in self.texts.values() if len(texts) > 1]
        if self.fields.settings.temperature >= _WARM and several and all(len(set(texts)) == 1 for texts in several):
            warnings.warn(
                f"ServerBackend: at temperature {self.fields.settings.temperature} all samples of a prompt are the same text, for "
                f"each of {len(several)} prompts; the server seems to decode greedily",
                stacklevel=3,
            )
