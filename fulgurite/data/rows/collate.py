"""Rows to padded tensors. Padding is on the right, to the longest row of the batch (or a multiple above it)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fulgurite.data.rows.encoded import IGNORE_INDEX
from fulgurite.data.sampling.windows import Batch

__all__ = ["CausalLMCollator", "RowCollator", "Seq2SeqCollator"]

Row = dict[str, Tensor]


def _pad(rows: Sequence[Tensor], value: int, multiple: int) -> Tensor:
    longest = max(len(row) for row in rows)
    width = -(-longest // multiple) * multiple
    padded = torch.full((len(rows), width), value, dtype=torch.int64)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


class _Collator:
    """What the collators share.

    Args:
        pad_token_id: stands in padded positions.
        pad_multiple: the padded length is rounded up to a multiple of it; 8 suits tensor cores.
    """

    def __init__(self, pad_token_id: int, pad_multiple: int = 1) -> None:
        if pad_multiple < 1:
            raise ValueError(f"{type(self).__name__}: pad_multiple is {pad_multiple}; it must be at least 1")
        self.pad_token_id = pad_token_id
        self.pad_multiple = pad_multiple

    def rows(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The batch: input_ids, attention_mask (B, T), labels; where given token_type_ids (B, T), tag (B,) and row (B,)."""
        batch = {
            "input_ids": _pad([row["input_ids"] for row in rows], self.pad_token_id, self.pad_multiple),
            "attention_mask": _pad([torch.ones_like(row["input_ids"]) for row in rows], 0, self.pad_multiple),
        }
        if "token_type_ids" in rows[0]:
            batch["token_type_ids"] = _pad([row["token_type_ids"] for row in rows], 0, self.pad_multiple)
        for name in ("tag", "row"):
            if name in rows[0]:
                batch[name] = torch.stack([row[name] for row in rows])
        batch["labels"] = self._labels(rows)
        return batch

    def __call__(self, item: tuple[Sequence[Row], Batch]) -> dict[str, Tensor]:
        """The tensors of one `Batch`, with `tokens_in_window` where it has one and no label in rows that fill it up."""
        rows, batch = item
        tensors = self.rows(rows)
        if batch.padding:
            labels = tensors["labels"]
            labels[-batch.padding :] = float("nan") if labels.is_floating_point() else IGNORE_INDEX
        if batch.tokens_in_window is not None:
            tensors["tokens_in_window"] = torch.tensor(batch.tokens_in_window, dtype=torch.int64)
        return tensors

    def _labels(self, rows: Sequence[Row]) -> Tensor:
        raise NotImplementedError


class RowCollator(_Collator):
    """Classification and regression: one label per row, labels (B,) int64 or float32."""

    def _labels(self, rows: Sequence[Row]) -> Tensor:
        return torch.stack([row["labels"] for row in rows])


class CausalLMCollator(_Collator):
    """Language modelling: labels (B, T) are the rows' labels, or the input ids where they have none; -100 where padded.

    The model shifts them.
    """

    def _labels(self, rows: Sequence[Row]) -> Tensor:
        name = "labels" if "labels" in rows[0] else "input_ids"
        return _pad([row[name] for row in rows], IGNORE_INDEX, self.pad_multiple)


class Seq2SeqCollator(_Collator):
    """Encoder-decoders: labels (B, T') are the answers, -100 where padded; the model shifts them right."""

    def _labels(self, rows: Sequence[Row]) -> Tensor:
        return _pad([row["labels"] for row in rows], IGNORE_INDEX, self.pad_multiple)
