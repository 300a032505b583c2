"""Batches that are written from beginning to end by a model's own `generate`, where the cache cannot be refilled.

The tokens are still ours: a logits processor draws them, with each row's own random numbers, and leaves only the drawn one to
`generate`. So samples, their log-probabilities and their seeds are those of the refilled batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import torch

from fulgurite.generation.in_process.drawing import Row, choose
from fulgurite.generation.protocol import SamplingSettings

__all__ = ["Choice", "batches_of"]


class Choice:
    """Draws the tokens of a batch inside `generate`.

    Args:
        rows: of the batch.
        pad: what finished rows get.
        settings: how tokens are drawn.
    """

    def __init__(self, rows: Sequence[Row], pad: int, settings: SamplingSettings) -> None:
        self.rows, self.pad, self.settings = rows, pad, settings

    def process(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """A logits processor: each row's drawn token has 0, everything else minus infinity."""
        open_ = [i for i, row in enumerate(self.rows) if row.finish is None]
        tokens = [self.pad] * len(self.rows)
        if open_:
            found = choose(scores[open_], [self.rows[i] for i in open_], self.settings)
            for i, token in zip(open_, found, strict=True):
                tokens[i] = token
        forced = torch.full_like(scores, -torch.inf)
        forced.scatter_(1, torch.tensor(tokens, device=scores.device).unsqueeze(1), 0.0)
        return forced

    def stopped(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """A stopping criterion: which rows are finished, (B,)."""
        return torch.tensor([row.finish is not None for row in self.rows], device=input_ids.device)


def batches_of(
    rows: Sequence[tuple[Row, Any]], size: int, length: Callable[[Any], int]
) -> Iterator[list[tuple[Row, Any]]]:
    """Batches of rows with their encoded prompts: of one limit each, so that none runs past its window; the longest first.

    Args:
        rows: with what `length` measures.
        size: rows of a batch at most.
        length: tokens of an encoded prompt.
    """
    order = sorted(rows, key=lambda pair: (-pair[0].limit, -length(pair[1])))
    for _, alike in groupby(order, key=lambda pair: pair[0].limit):
        some = list(alike)
        yield from (some[at : at + size] for at in range(0, len(some), size))
