"""Batches for several tokenizers at once: the same answer in every specialist's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fulgurite.data.rows.encoded import IGNORE_INDEX
from fulgurite.data.sampling.windows import Batch

__all__ = ["FusedCollator", "split_prompts"]


def split_prompts(packed: Tensor, count: int) -> list[Tensor]:
    """The prompts of a row.

    Args:
        packed: a row's `input_ids`, each prompt behind its length.
        count: specialists.
    """
    found, at = [], 0
    while at < len(packed):
        length = int(packed[at])
        found.append(packed[at + 1 : at + 1 + length])
        at += 1 + length
    if len(found) != count:
        raise ValueError(
            f"split_prompts: the row holds {len(found)} prompts for {count} specialists; encode the rows again"
        )
    return found


class FusedCollator:
    """Rows to one padded batch per specialist, and the positions that predict the same answer tokens.

    A batch holds `input_ids` and `attention_mask`, lists of E tensors (B, T_e) padded on the right; `sources` (E, K), where
    in the flattened (B·T_e) states of each specialist the K answer tokens are predicted; `targets` (K,), the tokens; `row`
    (K,), their rows; `tag` (B,); and `tokens_in_window` where the sampler gave it.

    Args:
        specialists: how many.
        pad_token_id: stands in padded positions.
        pad_multiple: padded lengths are rounded up to a multiple of it.
    """

    def __init__(self, specialists: int, pad_token_id: int, pad_multiple: int = 1) -> None:
        self.specialists, self.pad_token_id, self.pad_multiple = specialists, pad_token_id, pad_multiple

    def rows(self, rows: Sequence[dict[str, Tensor]], padding: int = 0) -> dict[str, Any]:
        """The batch of some rows.

        Args:
            rows: with `input_ids` and `labels`, and `tag` where there are any.
            padding: how many of the last rows only fill the batch up: they have no target.
        """
        prompts = [split_prompts(row["input_ids"], self.specialists) for row in rows]
        answers = [row["labels"] for row in rows]
        kept = len(rows) - padding
        ids, masks, sources = [], [], []
        for place in range(self.specialists):
            # The last token predicts nothing that is trained on; left in, each view would be one token longer.
            views = [torch.cat([row[place], answer[:-1]]) for row, answer in zip(prompts, answers, strict=True)]
            width = -(-max(map(len, views)) // self.pad_multiple) * self.pad_multiple
            padded = torch.full((len(views), width), self.pad_token_id, dtype=torch.int64)
            mask = torch.zeros_like(padded)
            for i, view in enumerate(views):
                padded[i, : len(view)], mask[i, : len(view)] = view, 1
            ids.append(padded)
            masks.append(mask)
            starts = [i * width + len(row[place]) - 1 for i, row in enumerate(prompts[:kept])]
            sources.append(_joined([torch.arange(s, s + len(a)) for s, a in zip(starts, answers[:kept], strict=True)]))
        batch: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": masks,
            "sources": torch.stack(sources),
            "targets": _joined(answers[:kept]),
            "row": _joined([torch.full_like(answer, i) for i, answer in enumerate(answers[:kept])]),
        }
        if "tag" in rows[0]:
            batch["tag"] = torch.stack([row["tag"] for row in rows])
        return batch

    def __call__(self, item: tuple[Sequence[dict[str, Tensor]], Batch]) -> dict[str, Any]:
        """The tensors of one `Batch`."""
        rows, batch = item
        tensors = self.rows(rows, batch.padding)
        if batch.tokens_in_window is not None:
            tensors["tokens_in_window"] = torch.tensor(batch.tokens_in_window, dtype=torch.int64)
        return tensors

    def labels(self, batch: dict[str, Any], place: int) -> Tensor:
        """What one specialist's positions are to predict, (B, T_e); -100 elsewhere. For whoever shows a batch.

        Args:
            batch: of this collator.
            place: the specialist.
        """
        flat = torch.full_like(batch["input_ids"][place], IGNORE_INDEX).flatten()
        flat[batch["sources"][place]] = batch["targets"]
        return flat.view_as(batch["input_ids"][place])


def _joined(pieces: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(pieces)) if pieces else torch.zeros(0, dtype=torch.int64)
