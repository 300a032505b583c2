"""Which token a row takes: the distribution that is drawn from, and one draw of each row's own random numbers.

Order of the steps, as in transformers: repetition penalty, temperature, top-k, top-p. A draw is the inverse of the cumulative
distribution, tokens in the order of their ids, at a uniform number of the row's own generator (Python's `random.Random`, whose
numbers are the same on every machine and in every version). The distribution is computed in float64 row by row, so that equal
logits give equal tokens whatever else is in the batch. A tie at the border of top-p stays.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from fulgurite.generation.protocol import SamplingSettings

__all__ = ["Row", "Stops", "choose", "distribution"]

_HEAD = (
    1024  # top-p looks at that many tokens first; sorting a vocabulary of 50,000 takes longer than a small model's step
)


@dataclass(frozen=True)
class Stops:
    """What ends an answer.

    Attributes:
        tokens: token id -> what the sample says ended it (the id itself, or the stop text that is this one token).
        follow: makes, for a prompt's ids, what takes each new token and returns the stop text that it completes, or None. None
            where there is no stop text.
    """

    tokens: Mapping[int, int | str]
    follow: Callable[[Sequence[int]], Callable[[int], str | None]] | None = None


@dataclass
class Row:
    """One answer that is being written.

    Attributes:
        place: of its request.
        index: of the sample.
        seed: of its draws.
        ids: the prompt's ids, which the repetition penalty counts.
        limit: tokens at most.
        stops: what ends it.
        tokens: what was drawn so far; log_probs and model_log_probs belong to it.
        finish: None while it is open.
        stop: what ended it.
    """

    place: int
    index: int
    seed: int
    ids: Sequence[int]
    limit: int
    stops: Stops
    tokens: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    model_log_probs: list[float] = field(default_factory=list)
    finish: str | None = None
    stop: int | str | None = None
    seen: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._follow = None if self.stops.follow is None else self.stops.follow(self.ids)

    def uniform(self) -> float:
        """The next number of this row, in [0, 1)."""
        return self._random.random()

    def take(self, token: int, log_prob: float, model_log_prob: float) -> None:
        """Adds a token, and ends the row where that token, the text or the length ends it."""
        self.tokens.append(token)
        self.log_probs.append(log_prob)
        self.model_log_probs.append(model_log_prob)
        if self.seen is not None:
            self.seen[token] = True
        if token in self.stops.tokens:
            self.finish, self.stop = "stop", self.stops.tokens[token]
        elif self._follow is not None and (text := self._follow(token)) is not None:
            self.finish, self.stop = "stop", text
        elif len(self.tokens) >= self.limit:
            self.finish = "length"


def choose(logits: torch.Tensor, rows: Sequence[Row], settings: SamplingSettings) -> list[int]:
    """The next token of each row, which the rows take.

    Args:
        logits: of each row, (B, V).
        rows: the B rows.
        settings: how tokens are drawn.

    Raises:
        ValueError: logits that are not numbers, or that leave no token to draw.
    """
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no float64
    own = logits.to(wide)
    norm = own.logsumexp(-1, keepdim=True)
    if not bool(torch.isfinite(norm).all()):
        raise ValueError(
            "generate: the model's logits are not finite, so that no token can be drawn; load it in float32 or bfloat16, or look "
            "for the training that broke it"
        )
    scores = own if settings.repetition_penalty == 1 else _penalised(logits.float(), rows, settings).to(wide)
    if settings.temperature == 0:
        tokens = scores.argmax(-1, keepdim=True)
        drawn = torch.zeros_like(norm)
    else:
        probs = distribution(scores, settings)
        reach = probs.cumsum(-1)
        whole = reach[:, -1:]
        uniform = torch.tensor([[row.uniform()] for row in rows], dtype=wide, device=own.device)
        # Never the whole sum itself, behind which only tokens without probability stand.
        at = torch.minimum(uniform * whole, torch.nextafter(whole, torch.zeros_like(whole)))
        tokens = torch.searchsorted(reach, at, right=True)
        drawn = probs.gather(-1, tokens).log()
    models = own.gather(-1, tokens) - norm
    found: list[int] = tokens[:, 0].tolist()
    for row, token, log_prob, model in zip(rows, found, drawn[:, 0].tolist(), models[:, 0].tolist(), strict=True):
        row.take(token, log_prob, model)
    return found


def distribution(scores: torch.Tensor, settings: SamplingSettings) -> torch.Tensor:
    """What is drawn from, (B, V), each row's sum 1.

    Args:
        scores: logits with the penalty applied, (B, V).
        settings: temperature above 0, top_k and top_p.
    """
    scaled = scores / settings.temperature
    if 0 < settings.top_k < scaled.shape[-1]:
        last = scaled.topk(settings.top_k, -1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < last, -torch.inf)
    probs = scaled.softmax(-1)
    if settings.top_p < 1:
        probs = probs.masked_fill(probs < _border(probs, settings.top_p), 0)
        probs = probs / probs.sum(-1, keepdim=True)
    return probs


def _border(probs: torch.Tensor, top_p: float) -> torch.Tensor:
    """The least probability among the likeliest tokens that together reach top_p, (B, 1)."""
    size = probs.shape[-1]
    ordered = probs.topk(min(_HEAD, size), -1).values
    if size > _HEAD and bool((ordered.sum(-1) < top_p).any()):
        ordered = probs.sort(-1, descending=True).values
    kept = ordered.cumsum(-1) - ordered < top_p
    return ordered.masked_fill(~kept, torch.inf).amin(-1, keepdim=True)


def _penalised(logits: torch.Tensor, rows: Sequence[Row], settings: SamplingSettings) -> torch.Tensor:
    """transformers' repetition penalty over the tokens of each row's prompt and answer, without padding."""
    size = logits.shape[-1]
    for row in rows:
        if row.seen is None:
            row.seen = torch.zeros(size, dtype=torch.bool, device=logits.device)
            known = [token for token in (*row.ids, *row.tokens) if token < size]
            row.seen[torch.tensor(known, dtype=torch.int64, device=logits.device)] = True
    penalty = settings.repetition_penalty
    lowered = torch.where(logits < 0, logits * penalty, logits / penalty)
    return torch.where(torch.stack([row.seen for row in rows if row.seen is not None]), lowered, logits)
