"""What is sent to a server and what comes back.

Fields that a server refuses are left out from then on, if the answers stay the same without them: `n` (one request for each answer
then), `seed`, log-probabilities, stop texts (the answer is then cut here), and settings that change nothing, such as top_k 0. These
are sent all the same, since a server may otherwise take a model's own generation_config.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fulgurite.data.records.conversation import Turn
from fulgurite.generation.in_process.stopping import cut_before
from fulgurite.generation.protocol import Prompt, SamplingSettings
from fulgurite.generation.server.stop_texts import safe_stops

__all__ = ["Answer", "BrokenAnswerError", "Call", "Fields", "answers_in", "shares_of", "tokens_in", "uses_chat"]

_SEEDS = 2**31  # some servers take no more
_LETTERS_PER_TOKEN = 3  # for the budget, before the server has counted


class BrokenAnswerError(ValueError):
    """What came back is not an answer."""


@dataclass(frozen=True)
class Call:
    """One request to the server: some samples of one prompt.

    Attributes:
        place: of the request among the requests.
        prompt: the prompt.
        indices: the samples.
        seed: of the first of them.
    """

    place: int
    prompt: Prompt
    indices: tuple[int, ...]
    seed: int


@dataclass(frozen=True)
class Answer:
    """One choice of a response; log_probs are those that the server gives.

    Attributes:
        counted: tokens of the answer as the server counted them; None where it does not say, or counts several answers in one.
        prompt_tokens: tokens of the prompt as the server counted them, None where it does not say.
    """

    text: str
    finish: str
    stop: int | str | None
    token_ids: tuple[int, ...] | None
    log_probs: tuple[float, ...] | None
    counted: int | None = None
    prompt_tokens: int | None = None


@dataclass(frozen=True)
class Usage:
    """What a response took: all tokens, and those of the prompt and of the answers where the server tells them apart."""

    total: int
    parts: tuple[int, int] | None


class Fields:
    """The fields of requests.

    Args:
        model: the name that the server knows.
        settings: of the answers.
        log_probs: whether to ask for log-probabilities.
        extra: further fields, as the server takes them.
    """

    def __init__(self, model: str, settings: SamplingSettings, log_probs: bool, extra: Mapping[str, Any]) -> None:
        self.model, self.settings, self.log_probs, self.extra = model, settings, log_probs, extra
        self.refused: set[str] = set()
        self.careful = False  # whether the server looks for stop texts in the prompt too

    def body(self, call: Call, chat: bool) -> dict[str, Any]:
        """The fields of one request."""
        settings = self.settings
        found: dict[str, Any] = {"model": self.model}
        if chat:
            turns = [Turn("user", call.prompt)] if isinstance(call.prompt, str) else call.prompt
            found["messages"] = [{"role": t.role, "content": t.content} for t in turns if isinstance(t, Turn)]
        else:
            found["prompt"] = call.prompt if isinstance(call.prompt, str) else list(call.prompt)
        found["max_completion_tokens" if "max_tokens" in self.refused else "max_tokens"] = settings.max_new_tokens
        found |= {"temperature": settings.temperature, "top_p": settings.top_p}
        optional: dict[str, Any] = {"top_k": settings.top_k, "repetition_penalty": settings.repetition_penalty}
        optional["seed"] = call.seed % _SEEDS
        if len(call.indices) > 1:
            optional["n"] = len(call.indices)
        if stops := safe_stops(call.prompt, chat, settings.stop) if self.careful else list(settings.stop):
            optional["stop"] = stops
        if settings.stop_ids:
            optional["stop_token_ids"] = list(settings.stop_ids)
        if self.log_probs:
            optional["logprobs"] = True if chat else 0
        found |= {name: value for name, value in optional.items() if name not in self.refused}
        return {**found, **self.extra}

    def refuse(self, message: str, body: Mapping[str, Any]) -> str | None:
        """Takes note of the fields that a refusal names.

        Args:
            message: the server's.
            body: of the request that it refused.

        Returns:
            None if the request can be sent again without them; otherwise the field that cannot be left out, or "" if it names none.
        """
        names = [name for name in body if re.search(rf"(?<![\w.]){name}(?!\w)", message)]
        # A prompt that is too long is told with max_tokens too; only a server that wants another name for it refuses the field.
        renamed = "max_completion_tokens" in message and "nsupported" in message and "messages" in body
        unnamed = ("model", "messages", "prompt", "max_completion_tokens", *(() if renamed else ("max_tokens",)))
        names = [name for name in names if name not in unnamed]
        if not names:
            return ""
        fixed = [name for name in names if not self._can_go(name)]
        if fixed:
            return fixed[0]
        self.refused.update(names)
        return None

    def _can_go(self, name: str) -> bool:
        if name == "max_tokens":
            return True  # newer models of OpenAI want it under another name
        neutral = {"top_k": self.settings.top_k == 0, "repetition_penalty": self.settings.repetition_penalty == 1}
        return name not in self.extra and (name in ("n", "seed", "stop", "logprobs") or neutral.get(name, False))

    def most_tokens(self, call: Call) -> int:
        """Tokens that a request may use, with an estimate of the prompt's."""
        if isinstance(call.prompt, str):
            prompt = len(call.prompt) // _LETTERS_PER_TOKEN + 1
        else:
            parts = (len(p.content) // _LETTERS_PER_TOKEN + 4 if isinstance(p, Turn) else 1 for p in call.prompt)
            prompt = sum(parts)
        return prompt + self.settings.max_new_tokens * len(call.indices)

    def seed(self, call: Call) -> int:
        """The seed that a request is sent with."""
        return call.seed % _SEEDS


def uses_chat(prompt: Prompt, endpoint: str) -> bool:
    """Whether a prompt goes to the chat endpoint.

    Args:
        prompt: text, turns or ids.
        endpoint: "auto", "chat" or "completions".

    Raises:
        ValueError: a prompt that the named endpoint does not take.
    """
    turns = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Turn)
    ids = not isinstance(prompt, str) and not turns
    if (turns and endpoint == "completions") or (ids and endpoint == "chat"):
        what = "turns of a chat" if turns else "token ids"
        raise ValueError(
            f"ServerBackend: a prompt of {what} was given with endpoint={endpoint!r}, which does not take them; leave endpoint out"
        )
    return turns if endpoint == "auto" else endpoint == "chat"


def answers_in(content: bytes, chat: bool, wanted: int, stops: Sequence[str]) -> tuple[list[Answer], Usage | None]:
    """The answers of a response, at most as many as were wanted, and the tokens that the server counted.

    Args:
        content: the response's body.
        chat: whether it is the chat endpoint's.
        wanted: answers that were asked for.
        stops: stop texts; an answer is cut before the first of them, whether the server knew them or not.

    Raises:
        BrokenAnswerError: no JSON, or not the fields of an answer.
    """
    try:
        body = json.loads(content)
    except ValueError as error:
        raise BrokenAnswerError(f"the server's answer is no JSON ({str(error)[:80]}): {content[:60]!r}") from None
    try:
        choices = sorted(body["choices"], key=lambda choice: choice.get("index", 0))
        # Answers beyond the wanted ones are counted by the server too.
        answer_tokens = _counted(body, "completion_tokens") if len(choices) == 1 else None
        found = [
            replace(_answer(choice, chat, stops), counted=answer_tokens, prompt_tokens=_counted(body, "prompt_tokens"))
            for choice in choices[:wanted]
        ]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        raise BrokenAnswerError(
            f"the server's answer lacks a field of an answer ({type(error).__name__}: {error}): {content[:60]!r}"
        ) from None
    if not found:
        raise BrokenAnswerError(f"the server's answer holds no choice: {content[:60]!r}")
    return found, tokens_in(body)


def tokens_in(body: Any) -> Usage | None:
    """Tokens of a response as the server counted them, None where it does not say."""
    total, prompt, written = (_counted(body, f"{name}_tokens", least=0) for name in ("total", "prompt", "completion"))
    if total is None:
        return None
    return Usage(total, (prompt, written) if prompt is not None and written is not None else None)


def shares_of(usage: Usage | None, answers: int) -> list[tuple[int, int] | None]:
    """Tokens of prompt and answer for each answer of one response; their sums are what the server counted.

    Args:
        usage: of the response.
        answers: how many it has, at least one.
    """
    if usage is None or usage.parts is None:
        return [None] * answers
    prompt, written = usage.parts
    each, rest = divmod(written, answers)
    return [(prompt if i == 0 else 0, each + (i < rest)) for i in range(answers)]


def _counted(body: Any, name: str, least: int = 1) -> int | None:
    """A field of a response's `usage`. Even an empty answer has its end token: servers that write 0 there have not counted."""
    usage = body.get("usage") if isinstance(body, dict) else None
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= least else None


def _answer(choice: Mapping[str, Any], chat: bool, stops: Sequence[str]) -> Answer:
    text = choice["message"]["content"] if chat else choice["text"]
    text = "" if text is None and chat else text
    if not isinstance(text, str):
        raise TypeError(f"the text is {text!r}")
    finish, stop = str(choice.get("finish_reason") or "unknown"), choice.get("stop_reason")
    logs, ids = choice.get("logprobs") or {}, choice.get("token_ids")
    values: list[Any] = (
        [part["logprob"] for part in logs.get("content") or ()] if chat else logs.get("token_logprobs") or []
    )
    whole = bool(values) and all(isinstance(value, (int, float)) for value in values)
    cut, hit = cut_before(text, stops)
    if hit is not None:  # the server went on behind it
        return Answer(cut, "stop", hit, None, None)
    return Answer(
        text,
        finish,
        stop if isinstance(stop, (int, str)) else None,
        tuple(map(int, ids)) if isinstance(ids, list) else None,
        tuple(map(float, values)) if whole else None,
    )
