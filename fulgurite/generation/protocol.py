"""What every backend takes and gives: requests in, ``n`` samples of each out, as they finish.

A sample knows what it depends on: the sampling settings, the model with its revision, the adapter's hash and the seed. Its seed is
a hash of the run's seed, the prompt and the sample's index, so that neither the order of the requests nor what stood beside a
prompt in a batch changes what is drawn.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable

from fulgurite.data.records.conversation import Turn
from fulgurite.generation.writers import check_drawing

__all__ = ["Backend", "Job", "Prompt", "Request", "Sample", "SamplingSettings", "by_request", "jobs_of", "sample_seed"]

Prompt: TypeAlias = "str | Sequence[Turn] | Sequence[int]"


@dataclass(frozen=True)
class SamplingSettings:
    """How answers are drawn; part of every sample's record.

    Args:
        max_new_tokens: tokens of an answer at most.
        temperature: 0 takes the likeliest token each time; above, tokens are drawn.
        top_p: draw from the likeliest tokens that together have this probability.
        top_k: draw from that many tokens; 0 for all.
        repetition_penalty: above 1, tokens that stand there already become less likely.
        stop: texts that end an answer; the answer is cut before the first of them. A text that is one special token of the
            tokenizer counts as that token.
        stop_ids: token ids that end an answer, beside the model's own end tokens.
        seed: the run's seed.

    Raises:
        ValueError: a value out of its range, or an empty stop text.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_drawing(self)
        if isinstance(self.stop, str) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(
                f"SamplingSettings: stop={self.stop!r}; it takes a sequence of texts that are not empty, such as ('\\n\\n',)"
            )
        # Lists are what people and JSON files give; a frozen record needs tuples.
        object.__setattr__(self, "stop", tuple(self.stop))
        object.__setattr__(self, "stop_ids", tuple(self.stop_ids))

    @property
    def plain(self) -> bool:
        """Whether tokens are drawn from the model's own distribution, without temperature, truncation or penalty."""
        return self.temperature == 1 and self.top_p == 1 and self.top_k == 0 and self.repetition_penalty == 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "stop": list(self.stop), "stop_ids": list(self.stop_ids)}


@dataclass(frozen=True)
class Request:
    """A prompt, and which of its samples are wanted.

    Args:
        prompt: a text, which is continued as it stands; the turns of a chat, over which the chat template is laid; or token ids.
        key: what tells this request from another one with the same prompt, such as a task's id; part of the seeds. Without a key
            the second of two equal prompts of one call is told from the first by its number.
        samples: the indices of the wanted samples; None for 0 to n − 1. A run that is taken up again names those that are missing.
    """

    prompt: Prompt
    key: str = ""
    samples: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.samples is not None and (
            len(set(self.samples)) < len(self.samples) or min(self.samples, default=0) < 0
        ):
            raise ValueError(
                f"Request: samples={self.samples}; the indices are 0 or above and each stands there once; correct them"
            )


@dataclass(frozen=True)
class Sample:
    """One answer.

    Attributes:
        prompt: the place of its request among the requests.
        index: which of the request's samples it is.
        text: the answer without prompt, end token and stop text; what was written so far where `finish` is "error".
        finish: "stop", "length" (max_new_tokens, or the end of the model's window), "error", or what else a server says.
        stop: the token id or the text that ended it, where that is known.
        seed: of the draws of this sample.
        token_ids: what was drawn, the end token included; None where a server does not say.
        log_probs: of each token, under the distribution that it was drawn from: temperature, top-k, top-p and penalty applied and
            renormalised. At temperature 0 that distribution has one token, so that each is 0. None where they are not known.
        model_log_probs: of each token under the model's own distribution: temperature 1, nothing cut or penalised.
        error: what went wrong, one sentence; None if nothing did.
        made_with: what the sample depends on: backend, model, revision, adapter, settings. Plain data that a call's samples share.
        counted: tokens of the answer as a server counted them, those behind a stop text that it did not know included; None where
            it does not say, or counts several answers in one.
        prompt_tokens: tokens of the prompt as a server counted them, None where it does not say.
        usage: tokens of the prompt and of the answer, for accounts. A server counts those of a request: of its samples the first
            has the prompt's, and each has its share of the answers'. None where they are not known.
    """

    prompt: int
    index: int
    text: str
    finish: str
    stop: int | str | None = None
    seed: int = 0
    token_ids: tuple[int, ...] | None = None
    log_probs: tuple[float, ...] | None = None
    model_log_probs: tuple[float, ...] | None = None
    error: str | None = None
    made_with: Mapping[str, Any] = field(default_factory=dict, repr=False)
    counted: int | None = None
    prompt_tokens: int | None = None
    usage: tuple[int, int] | None = None

    @property
    def tokens(self) -> int | None:
        """How many tokens the answer has: those that are known, else as the server counted them; None where nothing tells."""
        if self.token_ids is not None:
            return len(self.token_ids)
        if self.counted is not None:
            return self.counted
        return None if self.model_log_probs is None else len(self.model_log_probs)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        found = dict(vars(self))
        for name in ("token_ids", "log_probs", "model_log_probs", "usage"):
            found[name] = None if found[name] is None else list(found[name])
        return {**found, "made_with": dict(self.made_with)}


@runtime_checkable
class Backend(Protocol):
    """Whatever writes answers."""

    def identity(self) -> dict[str, Any]:
        """What answers depend on beside prompts and settings: backend, model, revision, adapter. Plain data for JSON."""

    def sample(
        self, requests: Sequence[Request | Prompt], n: int = 1, settings: SamplingSettings | None = None
    ) -> Iterator[Sample]:
        """The wanted samples of each request, each once, in the order in which they finish.

        Args:
            requests: prompts, or requests that say more.
            n: samples of each request that does not name its samples.
            settings: None for the likeliest tokens, 256 at most.
        """


@dataclass(frozen=True)
class Job:
    """A request of a call with its place and the seeds of the wanted samples.

    Attributes:
        place: among the requests.
        prompt: the prompt.
        seeds: sample index -> seed.
    """

    place: int
    prompt: Prompt
    seeds: Mapping[int, int]


def jobs_of(owner: str, requests: Sequence[Request | Prompt], n: int, settings: SamplingSettings) -> list[Job]:
    """What a call has to do.

    Args:
        owner: the backend, for messages.
        requests: as Backend.sample takes them.
        n: samples of each request that names none.
        settings: of the run.

    Raises:
        ValueError: n below 1; several samples of a request at temperature 0, which would all be the same; a text instead of a list.
    """
    if isinstance(requests, str):
        raise ValueError(f"{owner}: requests is one text, {requests[:40]!r}; give a list of prompts")
    if n < 1:
        raise ValueError(f"{owner}: n={n}; at least one sample of each prompt is needed")
    seen: Counter[str] = Counter()
    found = []
    for place, given in enumerate(requests):
        request = given if isinstance(given, Request) else Request(given)
        wanted = tuple(range(n)) if request.samples is None else request.samples
        if settings.temperature == 0 and len(wanted) > 1:
            raise ValueError(
                f"{owner}: {len(wanted)} samples of a prompt at temperature 0 would be the same answer each time; set temperature "
                "above 0, such as 0.8, or n=1"
            )
        name = _plain(request.prompt) + request.key
        key = request.key or (str(seen[name]) if seen[name] else "")
        seen[name] += 1
        seeds = {index: sample_seed(settings.seed, request.prompt, index, key) for index in wanted}
        found.append(Job(place, request.prompt, seeds))
    return found


def sample_seed(seed: int, prompt: Prompt, index: int, key: str = "") -> int:
    """A sample's seed, 0 to 2⁶³ − 1: a hash of the run's seed, the prompt, the sample's index and the request's key.

    Args:
        seed: of the run.
        prompt: text, turns or token ids.
        index: of the sample.
        key: of the request.
    """
    text = json.dumps([seed, _plain(prompt), index, key])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def by_request(samples: Iterable[Sample]) -> list[list[Sample]]:
    """All samples, those of each request together and in the order of their indices.

    Args:
        samples: what Backend.sample gives.
    """
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.prompt, []).append(sample)
    return [sorted(found[place], key=lambda sample: sample.index) for place in sorted(found)]


def _plain(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return json.dumps(prompt)
    return json.dumps([[part.role, part.content] if isinstance(part, Turn) else int(part) for part in prompt])
