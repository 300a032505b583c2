"""Continuous batching: a row that has finished leaves the batch, and the next answer in the queue takes its place.

A prompt is read once; all its samples start from the cache that this leaves. Memory is bound by the number of rows times the
longest row, and by the prompts that are read and not yet begun in full: at most as many as there are rows.

Rows compute the same as alone, up to the last bits of floating point: kernels sum in another order for another shape of batch.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from fulgurite.generation.in_process.drawing import Row, choose
from fulgurite.generation.in_process.row_cache import Prefix, RowCache
from fulgurite.generation.protocol import SamplingSettings

__all__ = ["Answers", "Reader", "RefilledBatch", "why_not_refilled"]

_FREE = 4  # new prompts are read when one row in so many is free: reading several at once costs less than one by one


@dataclass(frozen=True)
class Answers:
    """The rows of one prompt that are to be written, all open and empty."""

    ids: Sequence[int]
    rows: Sequence[Row]


class Reader:
    """Calls a causal model of transformers with a cache.

    Args:
        model: adapters included.
        pad: the id that fills shorter prompts.
    """

    def __init__(self, model: Any, pad: int) -> None:
        self.model, self.pad = model, pad
        self.device = next(model.parameters()).device
        own = model.get_base_model() if hasattr(model, "get_base_model") else model
        accepted = inspect.signature(own.forward).parameters
        # Models without position ids (BLOOM) take positions from the mask.
        self.takes_positions = "position_ids" in accepted
        self.more = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def prompts(self, prompts: Sequence[Sequence[int]]) -> list[Prefix]:
        """Reads prompts, padded on the left."""
        from transformers import DynamicCache

        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), self.pad)
        mask = torch.zeros_like(ids)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :] = torch.tensor(prompt)
            mask[i, width - len(prompt) :] = 1
        cache = DynamicCache()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = self._call(ids.to(self.device), mask.to(self.device), positions.to(self.device), cache)
        layers: list[Any] = list(cache.layers)
        return [
            Prefix([(at.keys[i, :, width - len(p) :], at.values[i, :, width - len(p) :]) for at in layers], logits[i])
            for i, p in enumerate(prompts)
        ]

    def tokens(self, tokens: Sequence[int], cache: RowCache) -> torch.Tensor:
        """Reads one more token of each active row: the logits behind it, (B, V)."""
        mask, positions = cache.prepare(self.device)
        ids = torch.tensor(tokens, device=self.device).unsqueeze(1)
        logits = self._call(ids, mask, positions, cache.cache)
        cache.advance()
        return logits

    def _call(self, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        more = {"position_ids": positions, **self.more} if self.takes_positions else self.more
        out = self.model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **more)
        logits: torch.Tensor = out.logits[:, -1]
        return logits


class RefilledBatch:
    """Writes the answers of a queue of prompts.

    Args:
        reader: of the model.
        queue: prompts with their rows; those of like length stand together.
        size: rows of the batch.
        settings: how tokens are drawn.
    """

    def __init__(self, reader: Reader, queue: Sequence[Answers], size: int, settings: SamplingSettings) -> None:
        self.reader, self.size, self.settings = reader, size, settings
        self.waiting = deque(queue)
        longest = max((len(answers.ids) + row.limit for answers in queue for row in answers.rows), default=1)
        self.cache = RowCache(size, longest)
        self.active: list[Row] = []
        self._read: deque[tuple[Prefix, deque[Row]]] = deque()

    def __bool__(self) -> bool:
        """Whether any answer is open."""
        return bool(self.waiting or self._read or self.active)

    def until_some_finish(self) -> list[Row]:
        """Goes on until at least one answer is finished: those that are."""
        while self:
            finished = self._refill()
            if self.active:
                choose(
                    self.reader.tokens([row.tokens[-1] for row in self.active], self.cache), self.active, self.settings
                )
                finished += self._sort_out()
            if finished:
                return finished
        return []

    def _refill(self) -> list[Row]:
        """Begins answers until the batch is full: those that end with their first token."""
        finished = []
        while free := self.size - len(self.active):
            if not self._read:
                if not self.waiting or (self.active and free < self.size // _FREE):
                    break
                self._read_prompts(free)
            prefix, rows = self._read[0]
            begun = [rows.popleft() for _ in range(min(free, len(rows)))]
            if not rows:
                self._read.popleft()
            choose(prefix.logits.expand(len(begun), -1), begun, self.settings)
            for row in begun:
                if row.finish is not None:
                    finished.append(row)
                else:
                    self.cache.join(prefix)
                    self.active.append(row)
        return finished

    def _read_prompts(self, free: int) -> None:
        """Reads as many prompts as fill the free rows."""
        taken: list[Answers] = []
        while self.waiting and sum(len(answers.rows) for answers in taken) < free:
            taken.append(self.waiting.popleft())
        prefixes = self.reader.prompts([answers.ids for answers in taken])
        self._read.extend((prefix, deque(answers.rows)) for prefix, answers in zip(prefixes, taken, strict=True))

    def _sort_out(self) -> list[Row]:
        """Takes the finished rows out of the batch."""
        finished = []
        for place in reversed(range(len(self.active))):
            row = self.active[place]
            if row.finish is not None:
                finished.append(row)
                self.cache.leave(place)
                self.active[place] = self.active[-1]
                self.active.pop()
        return finished[::-1]


def why_not_refilled(reader: Reader, longest: int) -> str | None:
    """Why rows of this model cannot be refilled, None if they can.

    The cache's layers must hold every token (no sliding window shorter than the longest row, no state-space layer). Then it is
    proved on the model itself: two short rows, of which one joins later, against the whole rows without a cache.

    Args:
        reader: of the model.
        longest: tokens of the longest row.
    """
    config = reader.model.config
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(text, "sliding_window", None)
    if kinds - {"sliding_attention"}:
        return f"its layers are {', '.join(sorted(kinds))}"
    if isinstance(window, int) and window < longest and (kinds or not hasattr(text, "layer_types")):
        return f"its sliding window holds {window} tokens and the longest row {longest}"
    try:
        worst, allowed = _difference(reader, int(text.vocab_size))
    except Exception as error:
        return f"a trial ended with {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"
    return None if worst <= allowed else f"in a trial its logits were off by {worst:.1e}"


@torch.no_grad()
def _difference(reader: Reader, vocabulary: int) -> tuple[float, float]:
    """How far logits of refilled rows are from those of whole rows, relative to the largest, and how far they may be."""
    rows = [[(i * 7919 + 11) % vocabulary for i in range(start, start + 6)] for start in (0, 10)]
    cache = RowCache(2, 6)
    cache.join(reader.prompts([rows[0][:3]])[0])
    reader.tokens([rows[0][3]], cache)
    cache.join(reader.prompts([rows[1][:5]])[0])
    found = reader.tokens([rows[0][4], rows[1][5]], cache)
    whole = [
        reader.model(input_ids=torch.tensor([ids], device=reader.device)).logits[0, -1]
        for ids in (rows[0][:5], rows[1])
    ]
    truth = torch.stack(whole).float()
    worst = float((found.float() - truth).abs().max() / truth.abs().max())
    return (worst if worst == worst else float("inf")), (1e-3 if found.dtype == torch.float32 else 5e-2)
