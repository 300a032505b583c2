"""A key-value cache of a fixed number of rows, which answers enter and leave one at a time.

Each layer has one buffer (rows, heads, columns, width). The active rows are the first ones, and each ends at the same column, so
that a model reads them as a batch that is padded on the left. A row that leaves gives its place to the last row. The window of
columns that are in use moves to the right with each token; at the buffer's end it is moved back. Columns that an active row does
not use hold zeros or finished answers, and the mask covers them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

__all__ = ["Prefix", "RowCache"]

_SPARE = 32  # columns beyond the longest row at least, so that the window is seldom moved back


@dataclass(frozen=True)
class Prefix:
    """A prompt that the model has read.

    Attributes:
        layers: keys (heads, P, width) and values of each layer.
        logits: behind the prompt, (V,).
    """

    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
    logits: torch.Tensor

    @property
    def length(self) -> int:
        """Tokens of the prompt."""
        return self.layers[0][0].shape[-2]


class _Window:
    """The columns and rows that are in use."""

    rows = start = end = 0


class _Layer(DynamicLayer):
    """One layer's buffers, as transformers' models use a layer of a cache."""

    def __init__(self, window: _Window, keys: torch.Tensor, values: torch.Tensor, rows: int, columns: int) -> None:
        super().__init__()
        self.window = window
        self.dtype, self.device, self.is_initialized = keys.dtype, keys.device, True
        self.buffers = [part.new_zeros(rows, part.shape[0], columns, part.shape[-1]) for part in (keys, values)]

    def get_seq_length(self, *_: Any) -> int:
        """Columns in use."""
        return self.window.end - self.window.start

    def update(  # type: ignore[override]
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes the new tokens' keys and values behind the window; gives those of the window and the new ones."""
        window = self.window
        end = window.end + key_states.shape[-2]
        found = []
        for buffer, states in zip(self.buffers, (key_states, value_states), strict=True):
            buffer[: window.rows, :, window.end : end] = states
            found.append(buffer[: window.rows, :, window.start : end])
        self.keys, self.values = found
        return self.keys, self.values


class RowCache:
    """The cache of all active rows.

    Args:
        rows: how many there can be.
        longest: tokens of the longest row, answer included.

    Attributes:
        lengths: tokens of each active row that are in the cache.
        cache: transformers' cache, None before the first row.
    """

    def __init__(self, rows: int, longest: int) -> None:
        self.rows, self.columns = rows, longest + max(_SPARE, longest // 4)
        self.lengths: list[int] = []
        self.cache: DynamicCache | None = None
        self._window = _Window()
        self._layers: list[_Layer] = []

    def join(self, prefix: Prefix) -> None:
        """Adds a row behind the active ones, with a prompt that has been read."""
        if self.cache is None:
            self.cache = DynamicCache()
            self._layers = [_Layer(self._window, *parts, self.rows, self.columns) for parts in prefix.layers]
            self.cache.layers = list(self._layers)
        window, length = self._window, prefix.length
        if not self.lengths:
            window.start, window.end = 0, length
        if window.end < length:
            self._move(length)
        start = min(window.start, window.end - length)
        row, begin = len(self.lengths), window.end - length
        for layer, parts in zip(self._layers, prefix.layers, strict=True):
            for buffer, part in zip(layer.buffers, parts, strict=True):
                buffer[:row, :, start : window.start] = 0
                buffer[row, :, start:begin] = 0
                buffer[row, :, begin : window.end] = part
        window.start, window.rows = start, row + 1
        self.lengths.append(length)

    def leave(self, row: int) -> None:
        """Takes a row out; the last row gets its number."""
        window, last = self._window, len(self.lengths) - 1
        if row != last:
            for layer in self._layers:
                for buffer in layer.buffers:
                    buffer[row, :, window.start : window.end] = buffer[last, :, window.start : window.end]
            self.lengths[row] = self.lengths[last]
        self.lengths.pop()
        window.rows = last
        window.start = window.end - max(self.lengths, default=0)

    def prepare(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Makes room for one token of each row: the mask (B, columns with the new one) and the tokens' positions (B, 1)."""
        window = self._window
        if window.end + 1 > self.columns:
            self._move(window.end - window.start)
        width = window.end - window.start + 1
        lengths = torch.tensor(self.lengths, device=device).unsqueeze(1)
        mask = torch.arange(width, device=device) >= width - 1 - lengths
        return mask.long(), lengths

    def advance(self) -> None:
        """Counts the token that the model has just read for each row."""
        self._window.end += 1
        self.lengths = [length + 1 for length in self.lengths]

    def _move(self, end: int) -> None:
        """Moves the window so that it ends at this column."""
        window = self._window
        start = end - (window.end - window.start)
        for layer in self._layers:
            for buffer in layer.buffers:
                used = buffer[: window.rows, :, window.start : window.end].clone()
                buffer[: window.rows, :, start:end] = used
        window.start, window.end = start, end
